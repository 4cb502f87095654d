"""Episodes, demonstrations, corrections, the replay that turns episodes into training windows, and statistics."""

from softflow.data.action_statistics import ActionStatistics, action_statistics
from softflow.data.chunks import whole_chunks
from softflow.data.corrections import (
    CorrectionError,
    Corrections,
    chunks_from,
    holds_corrections,
    load_corrections,
    save_corrections,
)
from softflow.data.demonstrations import (
    Dataset,
    DemonstrationError,
    check_compatible,
    in_order_of,
    load_dataset,
    load_demonstrations,
    save_demonstrations,
    task_of,
)
from softflow.data.episode_builder import EpisodeBuilder
from softflow.data.episodes import Decision, Episode, RewardKind, outcome_of
from softflow.data.imitable import ImitationRule
from softflow.data.mixed_batches import sample_mixed
from softflow.data.observation_statistics import constant_dimensions, observation_statistics, some_observations
from softflow.data.ogbench import ogbench_episodes
from softflow.data.part_names import RecordedParts
from softflow.data.proposal_ring import proposal_dtype
from softflow.data.proposals import Proposals
from softflow.data.readers import DatasetReader, read_dataset, register_reader
from softflow.data.replay import Replay
from softflow.data.replay_rows import row_dtype
from softflow.data.rewards import SUCCESS_REWARDS, describe_reward
from softflow.data.takeovers import human_steps
from softflow.data.windows import Windows, concatenate, divide_reward, observation_tensor, to_torch

__all__ = [
    "SUCCESS_REWARDS",
    "ActionStatistics",
    "CorrectionError",
    "Corrections",
    "Dataset",
    "DatasetReader",
    "Decision",
    "DemonstrationError",
    "Episode",
    "EpisodeBuilder",
    "ImitationRule",
    "Proposals",
    "RecordedParts",
    "Replay",
    "RewardKind",
    "Windows",
    "action_statistics",
    "check_compatible",
    "chunks_from",
    "concatenate",
    "constant_dimensions",
    "describe_reward",
    "divide_reward",
    "holds_corrections",
    "human_steps",
    "in_order_of",
    "load_corrections",
    "load_dataset",
    "load_demonstrations",
    "observation_statistics",
    "observation_tensor",
    "ogbench_episodes",
    "outcome_of",
    "proposal_dtype",
    "read_dataset",
    "register_reader",
    "row_dtype",
    "sample_mixed",
    "save_corrections",
    "save_demonstrations",
    "some_observations",
    "task_of",
    "to_torch",
    "whole_chunks",
]
