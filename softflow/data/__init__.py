"""Episodes in, windows out: replay, demonstrations and statistics."""

from softflow.data.demonstrations import (
    DemonstrationError,
    check_compatible,
    load_demonstrations,
    save_demonstrations,
)
from softflow.data.episodes import Decision, Episode, EpisodeBuilder
from softflow.data.replay import Replay, Windows, concatenate, sample_mixed, to_torch
from softflow.data.statistics import observation_statistics

__all__ = [
    "Decision",
    "DemonstrationError",
    "Episode",
    "EpisodeBuilder",
    "Replay",
    "Windows",
    "check_compatible",
    "concatenate",
    "load_demonstrations",
    "observation_statistics",
    "sample_mixed",
    "save_demonstrations",
    "to_torch",
]
