"""What tests of the commands ask about runs, and how they interrupt one."""

from __future__ import annotations

import csv
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from softflow.algos import Algorithm


def stages_of(run: str) -> list[str]:
    """The stages that a run has been through."""
    with open(f"{run}/metrics.csv", newline="") as file:
        return list(dict.fromkeys(row["stage"] for row in csv.DictReader(file)))


@contextmanager
def interrupted(algorithm: type[Algorithm], at: int, by: BaseException | None = None) -> Iterator[None]:
    """In the update of this number, whoever trains by `algorithm` gets a SIGINT, or crashes with `by`."""
    update, updates = algorithm.update, itertools.count(1)

    def interrupting(*arguments: Any) -> Any:
        if next(updates) == at:
            if by is not None:
                raise by
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "update", interrupting)
        yield
