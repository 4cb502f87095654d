"""`softflow-eval`: evaluate a trained policy on held-out episodes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tyro.conf import Positional

from softflow.cli.command_line import as_json, parse_command_line, run_main
from softflow.data.summary import count
from softflow.runs.evaluator import EvaluationConfig, Evaluator
from softflow.settings.fields import Flat
from softflow.training.evaluation import Evaluation


@dataclass
class EvalConfig:
    """Settings of `softflow-eval`."""

    run: Positional[str]
    """Run folder, whose best policy is evaluated, or the folder of one of its checkpoints."""
    evaluation: Flat[EvaluationConfig] = field(default_factory=EvaluationConfig)
    json: bool = False
    """Whether to print the result as one JSON object."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(
        EvalConfig, argv, prog="softflow-eval", description="Evaluate a trained policy on held-out episodes."
    )
    evaluator = Evaluator(config.run, config.evaluation)
    result, episodes = evaluator.evaluate()
    print(as_json(result.as_dict()) if config.json else _in_words(result))
    evaluator.write(episodes)  # after printing, so that a full disk does not cost the result


def _in_words(result: Evaluation) -> str:
    low, high = result.success_ci95
    lines = [f"success {result.success_rate:.2f} [{low:.2f}, {high:.2f}] on {result.episodes} held-out episodes"]
    if result.lost:
        lines.append(
            f"{count(result.lost, 'lost episode')} counted as no success, {result.errors} of them lost to errors of "
            "their environment"
        )
    lines.append(f"mean return {result.mean_return:.3f}, mean length {result.mean_length:.0f} steps")
    if result.outcome:
        lines.append(", ".join(f"mean {name} {mean:.3g}" for name, mean in result.outcome.items()))
    if result.guard:
        lines.append("guard: " + ", ".join(f"{name} {share:.3g}" for name, share in result.guard.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
