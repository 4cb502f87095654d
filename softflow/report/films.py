"""Films of a report: the first successes and failures of each group's best policy on held-out episodes."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from softflow.errors import UserError, one_line
from softflow.report.groups import Group
from softflow.report.history import History
from softflow.report.page import Figure, Section, markup
from softflow.runs.assembly import load_run
from softflow.runs.filming import film_policy
from softflow.runs.video import Film, write_films
from softflow.training.evaluation import HELD_OUT_SEEDS
from softflow.training.failures import EnvironmentFailed

WIDTH = 480
"""Width of a film in pixels."""
TRIES = 8
"""Number of episodes that are looked at for each film that is wanted."""


def films_section(groups: Sequence[Group], number: int, missing: list[str]) -> Section | None:
    """Film the best policy of the first run of each group until there are enough successes and failures.

    Args:
        groups: The groups.
        number: The number of successes and of failures.
        missing: Notes, to which the reasons are added why there are no films.
    """
    figures: list[Figure] = []
    for group in groups:
        run, place = group.runs[0], f"{group.full_label}, seed {group.runs[0].seed}"
        try:
            for film in _first_films(run, number):
                what = "Success" if film.is_success else "Failure"
                figures.append(Figure(f"{what}: {place}", markup(_embedded(film, f"{what} of {place}"))))
        except (UserError, EnvironmentFailed) as error:
            missing.append(f"{run.name}: no films: {one_line(error)}")
    if not figures:
        return None
    text = ["The best policy on the first held-out episodes. The value is what the critic expects of the chunk."]
    return Section("films", "First successes and failures", text, panels=figures)


def _first_films(run: History, number: int) -> list[Film]:
    """Return the first successes and the first failures, as far as there are any among the first episodes."""
    deployed, config = load_run(str(run.folder.path))
    successes: list[Film] = []
    failures: list[Film] = []
    seeds = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + TRIES * number)
    for film in film_policy(deployed.policy, config.run, run.name, seeds, WIDTH):
        kept = successes if film.is_success else failures
        if len(kept) < number:
            kept.append(film)
        if len(successes) == len(failures) == number:
            break
    return [*successes, *failures]


def _embedded(film: Film, label: str) -> str:
    """Return a film as a video element."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_films(path, [film], columns=1)
        data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:video/mp4;base64,{data}"
    return f'<video controls muted loop playsinline aria-label="{escape(label)}" src="{source}"></video>'
