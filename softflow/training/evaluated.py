"""The evaluations of a run on held-out episodes: which policy is the best so far, and what is said about it.

With 50 episodes, the standard error of a success rate is up to 0.07, so the highest rate of a run is often luck. The
best policy is therefore the latest one that is not worse than the most successful one before it. A policy is worse if
Newcombe's interval of the difference says so, one-sided at `CONFIDENCE`. With 50 episodes each, this takes a difference
of up to about 0.1. Without any success, a policy is worse than one with a single success. All evaluations are compared
with the most successful one and not with the one before, so that a slow decline is noticed as well.

The most successful of several evaluations was probably lucky. If the latest policy seems worse, both are therefore
evaluated on further episodes, once each (`compare_latest`). All episodes of a policy count together.

The episodes of all evaluations have the same seeds. Nevertheless they are not compared in pairs, because a policy draws
its chunks at random and a resumed run may change the number of episodes. An interval for independent episodes is too
wide rather than too narrow here, which favours the later policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open

from softflow.errors import UserError, did_you_mean, one_line
from softflow.files import read_settings, written_whole
from softflow.training.checkpoint_folders import EVALUATION, path_safe
from softflow.training.evaluation import Evaluation
from softflow.training.intervals import difference_interval, wilson_interval
from softflow.training.run_folder import RunFolder

CONFIDENCE = 0.8
"""One-sided confidence with which an earlier policy must be better than a later one to remain the best."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of the deployed policy during training.

    Attributes:
        number: The index of the evaluation in the run.
        stage: The name of the stage in which it was made.
        done: The updates or environment steps done in the stage at that time.
        unit: What `done` counts.
        stage_ended: Whether the stage ended with it.
        result: The results on the held-out episodes.
        is_kept: Whether its policy is kept, so that it can be the best one.
        further: The results on further held-out episodes. None if no comparison has needed them.
    """

    number: int
    stage: str
    done: int
    unit: Literal["updates", "steps"]
    stage_ended: bool
    result: Evaluation
    is_kept: bool = True
    further: Evaluation | None = None

    @property
    def folder(self) -> str:
        """The name of the policy's folder among the checkpoints."""
        return f"{path_safe(self.stage)}_{self.done}"

    @property
    def counts(self) -> tuple[int, int]:
        """The number of successes and of episodes, with the further ones."""
        parts = self._parts.values()
        return sum(round(part.success_rate * part.episodes) for part in parts), sum(part.episodes for part in parts)

    @property
    def success_rate(self) -> float:
        """The fraction of all its episodes that were successes."""
        successes, episodes = self.counts
        return successes / episodes

    @property
    def success(self) -> str:
        """The success rate of all its episodes and its 95 % interval, as texts show them."""
        low, high = wilson_interval(*self.counts)
        return f"{self.success_rate:.2f} [{low:.2f}, {high:.2f}]"

    def is_worse_than(self, other: Evaluated) -> bool:
        """Whether the success rate is lower than that of another evaluation, one-sided at `CONFIDENCE`."""
        return difference_interval(other.counts, self.counts, 2 * CONFIDENCE - 1)[0] > 0

    def __str__(self) -> str:
        where = f"{self.done:,} {self.unit} of {self.stage}"
        return f"{where}, success {self.success} on {self.counts[1]} held-out episodes"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, from which `build` restores the evaluation."""
        return {**vars(self), **{name: part.as_dict() for name, part in self._parts.items()}}

    @property
    def _parts(self) -> dict[str, Evaluation]:
        return {"result": self.result} | ({} if self.further is None else {"further": self.further})

    @classmethod
    def build(cls, values: dict[str, Any]) -> Evaluated:
        """Restore what `as_dict` returned. Raise `ValueError` or `TypeError` if it is not that."""
        parts = {name: Evaluation(**values[name]) for name in ("result", "further") if values.get(name) is not None}
        one = cls(**{**values, **parts})
        for part in parts.values():
            numbers = one.number, one.done, part.episodes, part.success_rate, *part.success_ci95
            if not all(isinstance(number, int | float) for number in numbers) or len(numbers) != 6:
                raise ValueError("a number is missing")
        if not (isinstance(one.stage, str) and one.unit in ("updates", "steps")):
            raise ValueError("the stage is missing")
        return one


def most_successful(evaluations: Sequence[Evaluated]) -> Evaluated:
    """Return the evaluation with the highest success rate, the latest of several."""
    return max(evaluations, key=lambda one: (one.success_rate, one.number))


def kept(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """Return the evaluations whose policies are kept."""
    return [one for one in evaluations if one.is_kept]


def compare_latest(evaluations: Sequence[Evaluated], run_further: Callable[[Evaluated], Evaluation]) -> list[Evaluated]:
    """Return the evaluations; if the latest seems worse than the most successful one, both have further episodes.

    If another one is then the most successful, the comparison is repeated with it.

    Args:
        evaluations: All evaluations in order, so that `Evaluated.number` is the index.
        run_further: Returns the results of the policy of an evaluation on further held-out episodes.
    """
    compared = list(evaluations)
    while True:
        latest, other = compared[-1], most_successful(kept(compared))
        unsettled = [one for one in (other, latest) if one.further is None]
        if not (unsettled and latest.is_worse_than(other)):
            return compared
        for one in unsettled:
            compared[one.number] = replace(one, further=run_further(one))


def best_of(evaluations: Sequence[Evaluated]) -> Evaluated | None:
    """Return the evaluation of the best policy among those that are kept, as the module docstring defines it.

    None if no policy is kept.
    """
    choice = kept(evaluations)
    for count in range(len(choice), 0, -1):
        if not choice[count - 1].is_worse_than(most_successful(choice[:count])):
            return choice[count - 1]
    return None


def decline(evaluations: Sequence[Evaluated]) -> str | None:
    """Return a warning with the numbers if the last evaluation is probably worse than an earlier one, or else None.

    It is if the 95 % interval of the difference excludes 0. This asks for more than `Evaluated.is_worse_than`, by which
    an earlier policy remains the best: one of two policies must be deployed, but a warning needs evidence.
    """
    if not evaluations:
        return None
    last, most = evaluations[-1], most_successful(evaluations)
    low, high = difference_interval(last.counts, most.counts)
    if high >= 0:
        return None
    difference = last.success_rate - most.success_rate
    return (
        f"warning: the last policy ({last}) is probably worse than an earlier one ({most}): "
        f"difference {difference:+.2f}, 95 % interval [{low:+.2f}, {high:+.2f}]"
    )


def describe_best(best: Evaluated, last: Evaluated) -> str:
    """Return the line that says which policy is the best, and how successful the last one was."""
    then = "it is the last one evaluated" if best == last else f"the last one has {last.success_rate:.2f}"
    return f"best checkpoint: {best}; {then}"


def write_evaluation(folder: Path, evaluated: Evaluated) -> None:
    """Write an evaluation to the folder of its policy."""
    with written_whole(folder / EVALUATION) as file:
        file.write_text(json.dumps(evaluated.as_dict(), indent=2) + "\n", encoding="utf-8")


def read_evaluation(folder: Path) -> Evaluated:
    """Read the evaluation of the policy in a folder. Raise `UserError` if it is missing or damaged."""
    file = folder / EVALUATION
    try:
        return Evaluated.build(json.loads(read_settings(file)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{file}: not the evaluation of a policy: {one_line(error)}") from error


def unchanged_since(run: RunFolder) -> str | None:
    """Return the earlier stage at whose end the best policy of a run already had its weights. None if there is none.

    Then no later policy has proven itself, though the critic may now choose among several chunks.
    """
    best = run.best_checkpoint()
    kept = {path: read_evaluation(path) for path in run.policies()}
    if best not in kept:
        return None
    weights = _policy_weights(best)
    for path, one in sorted(kept.items(), key=lambda item: item[1].number):
        if one.stage_ended and one.stage != kept[best].stage and _policy_weights(path) == weights:
            return one.stage
    return None


def _policy_weights(folder: Path) -> dict[str, bytes]:
    """Read the weights of a policy, without those of its critic."""
    with safe_open(folder / "policy.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys() if name.startswith("policy.")}


def end_of_stage(run: RunFolder, stage: str, instead: str = "") -> Path:
    """Return the folder of the policy at the end of a stage of a run. `instead` is said at the end of the error.

    Raises:
        UserError: The run has no such stage, or has kept no policy at its end.
    """
    ends = [(read_evaluation(path), path) for path in run.policies()]
    ended = {one.stage: path for one, path in sorted(ends, key=lambda end: end[0].number) if one.stage_ended}
    if stage in ended:
        return ended[stage]
    if not ended:
        raise UserError(f"{run.given} has kept no policy of a stage: none has ended, or an earlier version trained it")
    raise UserError(f"{run.given} has no stage {stage!r} that has ended: {did_you_mean(stage, ended)}{instead}")
