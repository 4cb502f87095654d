"""Profile a training run: its CPU seconds by part.

    python -m benchmarks.timing.profile_run --settings '{run_dir: runs/profile}'

The run has one thread and all environments in this process. Time counts only for the innermost of the active parts: a
chunk proposed for the critic's target belongs to the flow.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import softflow
from critics import ChunkCritic, StateValue
from softflow.algos import online
from softflow.algos.chunk_critic import CriticLearner
from softflow.algos.policy_learner import PolicyLearner
from softflow.data import Replay
from softflow.envs import TapeCutDemonstrator
from softflow.policies import FlowPolicy
from softflow.runs import inputs
from softflow.settings.strict_yaml import read_yaml
from softflow.training.logging import MetricLogger
from softflow.training.loop import Trainer
from softflow.training.vector import ChunkExecution

PARTS: dict[str, list[tuple[Any, str]]] = {
    "simulation": [(ChunkExecution, "reset"), (ChunkExecution, "step"), (inputs, "first_demonstrations")],
    "the demonstrator": [(TapeCutDemonstrator, "act")],
    "the flow: chunks proposed": [(FlowPolicy, "propose")],
    "the flow: likelihoods": [(FlowPolicy, "bc_loss"), (FlowPolicy, "log_prob")],
    "the flow: gradients, optimiser, running average": [(PolicyLearner, "descend")],
    "the critic: values": [(ChunkCritic, "forward"), (StateValue, "forward")],
    "the critic: targets, gradients, optimiser, running average": [
        (CriticLearner, name) for name in ("descend", "target_value", "best_value", "td_target")
    ],
    "replay": [(Replay, "sample"), (Replay, "add_episode"), (online, "to_torch")],
    "logging": [(MetricLogger, "log")],
    "checkpoints": [(Trainer, "_save")],
}


class Clock:
    """CPU seconds of each part, excluding nested parts."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack, self._since = ["the rest"], time.process_time()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._pass()
                self._stack.pop()

        return call

    def _pass(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=read_yaml, default={}, help="settings of softflow.train, as YAML")
    settings = {**parser.parse_args().settings, "threads": 1, "vectorization_mode": "sync"}
    clock = Clock()
    for part, places in PARTS.items():
        for owner, name in places:
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    clock.timed("the rest", softflow.train)(settings)
    total = sum(clock.seconds.values())
    print(f"\n| {total:.0f} CPU seconds | share |\n|---|---|")
    for part in (*PARTS, "the rest"):
        print(f"| {part} | {clock.seconds[part] / total:.1%} |")


if __name__ == "__main__":
    main()
