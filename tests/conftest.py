"""What holds for all tests: a core for each worker of pytest-xdist, SIGINT interrupts, a seed, measured bounds, and no
verdict of Hypothesis that depends on the machine's speed."""

from __future__ import annotations

import functools
import json
import linecache
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in processes that tests start

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests are a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "margins", "how far measured values are from their bounds (benchmarks/studies/test_margins.py)"
    )
    group.addoption("--margins", metavar="FILE", help="run only tests with the fixture `measured`, and append each of "
                    "their comparisons to FILE")  # fmt: skip
    group.addoption("--seed-offset", type=int, default=0, metavar="N", help="add N to every seed, environments' too")
    group.addoption("--reverse-batches", action="store_true", help="gather the rows of batches in reverse order")


def pytest_configure(config: pytest.Config) -> None:
    if offset := config.getoption("seed_offset"):
        _offset_seeds(offset)
    if config.getoption("reverse_batches"):
        _reverse_batches()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("margins"):
        items[:] = [item for item in items if "measured" in getattr(item, "fixturenames", ())]


def _offset_seeds(offset: int) -> None:
    import numpy as np
    import torch
    from gymnasium.utils import seeding

    def with_offset(seeded: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(seeded)
        def shifted(seed: Any = None) -> Any:
            return seeded(seed + offset if isinstance(seed, int) else seed)

        return shifted

    for module, name in ((torch, "manual_seed"), (np.random, "default_rng"), (seeding, "np_random")):
        setattr(module, name, with_offset(getattr(module, name)))


def _reverse_batches() -> None:
    from softflow.data import Replay

    gather = Replay.gather
    Replay.gather = lambda self, rows, *rest: gather(self, rows[::-1].copy(), *rest)  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def same_draws_in_any_order() -> None:
    """A test that sets no seed draws the same numbers, whichever tests its process ran before."""
    import torch

    torch.manual_seed(0)


class Measured(float):
    """A number that reports every bound it is compared with."""

    report: Callable[[float, float, str], None]

    def __lt__(self, bound: float) -> bool:
        self.report(float(self), bound, "below")
        return float(self) < bound

    def __gt__(self, bound: float) -> bool:
        self.report(float(self), bound, "above")
        return float(self) > bound


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[Any], float]:
    """For a value that luck takes part in: what a training reached, what float32 lost, what was drawn.

    Write `assert measured(error) < 0.1`. The bound must be five standard deviations or more from the mean over seeds
    and processors, and wrong code beyond it; `benchmarks/studies/test_margins.py` measures the former
    (docs/how-to/tests.md).
    """
    path = request.config.getoption("margins")

    def report(value: float, bound: float, side: str) -> None:
        frame = sys._getframe(2)  # of the assertion
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().removeprefix("assert ")
        record = dict(test=request.node.nodeid, line=line, value=value, bound=float(bound), side=side)
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def measure(value: Any) -> float:
        """Measure a number, or a tensor that holds one."""
        number = float(value.detach() if hasattr(value, "detach") else value)
        if path is None:
            return number
        reporting = Measured(number)
        reporting.report = report
        return reporting

    return measure
