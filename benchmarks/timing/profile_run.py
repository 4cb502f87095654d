"""Where the time of a training run goes: its CPU seconds by what they are spent on.

    python -m benchmarks.timing.profile_run -- --run-dir runs/profile

What follows `--` goes to softflow-train, with one thread and all environments in this process. Each second counts for
the innermost of the parts below that is at work: a chunk proposed for the critic's target is the flow's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from critics import ChunkCritic, StateValue
from softflow.algos import online
from softflow.algos.chunk_critic import CriticLearner
from softflow.algos.policy_learner import PolicyLearner
from softflow.cli import train
from softflow.data import Replay
from softflow.envs import TapeCutDemonstrator
from softflow.policies import FlowPolicy
from softflow.runs import training
from softflow.training.logging import MetricLogger
from softflow.training.loop import Trainer
from softflow.training.vector import ChunkExecution

PARTS: dict[str, list[tuple[Any, str]]] = {
    "simulation": [(ChunkExecution, "reset"), (ChunkExecution, "step"), (training, "record_demonstrations")],
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
    """CPU seconds of each part, those of the parts within it left out."""

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
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(own)
    clock = Clock()
    for part, places in PARTS.items():
        for owner, name in places:
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    clock.timed("the rest", train.main)(["--threads", "1", "--vectorization-mode", "sync", *sys.argv[len(own) + 2 :]])
    total = sum(clock.seconds.values())
    print(f"\n| {total:.0f} CPU seconds | share |\n|---|---|")
    for part in (*PARTS, "the rest"):
        print(f"| {part} | {clock.seconds[part] / total:.1%} |")


if __name__ == "__main__":
    main()
