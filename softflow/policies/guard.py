"""A run-time monitor: is a chunk as likely as demonstrated ones, and is the observation like theirs?

Both questions have one answer each, a number and its threshold, and the thresholds come from demonstrations that the
density has *not* learnt from: those that it has are far likelier than any that follow.

    log p(chunk | observation)    the exact log-density under a frozen imitation policy, of the chunk to be executed.
                                  Small: nobody who demonstrated would do that here.
    distance(observation)         Mahalanobis distance of the raw observation from those that the density learnt from.
                                  Large: the density has never been here, and what it says of the chunk means little.

The second is needed because the first is conditional: fed the same wrong observation, a policy and the density agree.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softflow.errors import UserError, one_line
from softflow.policies.action_limits import ActionLimits, Limit
from softflow.policies.base import ChunkPolicy
from softflow.policies.best_of_n import BestOfN
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.weights import read_module, write_module
from softflow.task import TaskSpec

SHRINKAGE = 0.05
"""Added to the variance of each standardised observation, so that where data never vary is not infinitely far."""
ROWS = 1024  # judged at once when a guard is calibrated


class ChunkGuard(nn.Module):
    """Judges chunks by the density of an imitated policy, and limits them.

    Args:
        density: An imitated `FlowPolicy` with its observation statistics. It is copied and frozen.
        low, high, rate: See `ActionLimits`.
        task: What the robot that the density imitates sees and does; it is saved with the guard. None if it is not
            known.

    Raises:
        ValueError: `density` is no flow policy, sees images, or has a flow without an exact density; the limits are
            impossible; or the task has other observations or actions.
    """

    threshold: Tensor
    distance_threshold: Tensor
    whitening: Tensor

    def __init__(
        self,
        density: ChunkPolicy,
        low: Limit = -1.0,
        high: Limit = 1.0,
        rate: Limit = torch.inf,
        task: TaskSpec | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(density, FlowPolicy):
            raise ValueError(f"a guard needs the density of a FlowPolicy, got {type(density).__name__}")
        if density.encoder is not None:
            raise ValueError("a guard measures how far numbers are from those learnt: it cannot judge images")
        if not density.flow.exact_density:
            raise ValueError(
                f"flow {density.flow_name!r} has no exact density, which a guard judges by: imitate with another flow, "
                "such as 'coupling', and guard with that"
            )
        if task is not None:
            density.require_task(task)
        self.task = task
        self.density = copy.deepcopy(density).requires_grad_(False).eval()
        self.limits = ActionLimits(density.action_dim, low, high, rate)
        self.quantile = math.nan
        size = density.observation_dim
        self.register_buffer("threshold", torch.tensor(math.nan))
        self.register_buffer("distance_threshold", torch.tensor(math.nan))
        self.register_buffer("whitening", torch.full((size, size), math.nan))

    # ---------------------------------------------------------------------------------------------------- the judge

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Return log p(chunk | observation) in nats of the whole chunk: (B, O), (B, *n, H, A) -> (B, *n).

        The density is that of temperature 1, whatever temperature chunks are drawn at: cooler chunks are likelier than
        demonstrated ones. Where the result would be NaN it is minus infinity.
        """
        return self.density.log_prob(observation, chunk).nan_to_num(-math.inf, math.inf, -math.inf)

    def distance(self, observation: Tensor) -> Tensor:
        """Return the Mahalanobis distance per dimension, (B, O) -> (B,).

        It is about 1 on average for the observations that the density learnt from.
        """
        return torch.linalg.vector_norm(self._standardize(observation) @ self.whitening.mT, dim=-1) / math.sqrt(
            self.density.observation_dim
        )

    @torch.no_grad()
    def calibrate(self, learned: Tensor, observation: Tensor, chunk: Tensor, quantile: float = 0.05) -> None:
        """Set both thresholds such that each flags demonstrations drawn anew with a probability of at most `quantile`.

        This is split conformal prediction: of N scores, the threshold is the floor(quantile * (N + 1))-th from below
        (Vovk et al., Algorithmic Learning in a Random World, 2005). The probability is over demonstrations and over
        what is held out, and as exact as the windows are exchangeable; those of one episode are alike, so that many
        episodes count, not many windows.

        Args:
            learned: Observations that the density learnt from, (M, O).
            observation: Observations of demonstrations that it did not learn from, (N, O).
            chunk: The chunks demonstrated there, (N, H, A), as `softflow.data.whole_chunks` cuts them: without held
                ends.
            quantile: The probability, in (0, 1). Raising it flags more.

        Raises:
            ValueError: Shapes are wrong, numbers are not finite, the quantile is not in (0, 1), or there are too few
                chunks for it.
        """
        for name, rows in (("learned", learned), ("observation", observation)):
            self.require_observations(rows, name)
            if not len(rows):
                raise ValueError(f"{name}: expected at least one row")
        expected = (len(observation), *self.density.latent_shape)
        if chunk.shape != expected or not chunk.isfinite().all():
            raise ValueError(f"chunk: expected finite numbers {expected}, got {tuple(chunk.shape)}")
        if not 0 < quantile < 1:
            raise ValueError(f"quantile: expected a number in (0, 1), got {quantile!r}")
        scores = [self.log_prob(*rows) for rows in zip(observation.split(ROWS), chunk.split(ROWS), strict=True)]
        threshold = _lower_quantile(torch.cat(scores), quantile)
        if not threshold.isfinite():
            raise ValueError(
                "chunk: at this quantile the held-out chunks have no density at all: check the actions' units"
            )
        standard = self._standardize(learned).double()
        second_moment = standard.mT @ standard / len(standard)
        shrunk = second_moment + SHRINKAGE * torch.eye(len(second_moment)).to(second_moment)
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(shrunk)))
        self.threshold.copy_(threshold)
        self.distance_threshold.copy_(-_lower_quantile(-self.distance(observation), quantile))
        self.quantile = quantile

    def require_calibrated(self) -> None:
        """Raise RuntimeError if there are no thresholds."""
        if not all(buffer.isfinite().all() for buffer in (self.threshold, self.distance_threshold, self.whitening)):
            raise RuntimeError("the guard has no thresholds: calibrate it on held-out demonstrations, or load one")

    def require_fit(self, deployed: BestOfN, name: str) -> None:
        """Check that the guard can judge a policy: it is of the same task and horizon.

        Where one of the two does not know its task, the sizes of observations and actions are compared instead.

        Args:
            deployed: The policy.
            name: What errors call the guard.

        Raises:
            TaskMismatch: The guard is of another task; the message names every difference.
            UserError: It has another horizon, or other sizes.
        """
        if self.task is not None and deployed.task is not None:
            deployed.task.require_same(self.task, f"{name} is of another task than the policy")
        sizes = [(one.observation_dim, one.horizon, one.action_dim) for one in (self.density, deployed.policy)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{name}: its observations, horizon and actions are of {sizes[0]} numbers, the policy's of {sizes[1]}: "
                "give one of the same environment and horizon"
            )

    def require_observations(self, rows: Tensor, name: str = "observation") -> None:
        """Raise ValueError unless `rows` are finite observations, (B, O)."""
        size = self.density.observation_dim
        if rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"{name}: expected (B, {size}), got {tuple(rows.shape)}")
        if not rows.isfinite().all():
            dims = (~rows.isfinite()).any(0).nonzero()[:, 0].tolist()
            raise ValueError(f"{name}: dimensions {dims} are not finite numbers: no action follows from that")

    def _standardize(self, observation: Tensor) -> Tensor:
        """Standardise as the density's normaliser does, but without clipping: a broken sensor must be far away."""
        return (observation - self.density.normalizer.mean) / self.density.normalizer.std

    # -------------------------------------------------------------------------------------------------------- files

    def save(self, folder: str | Path) -> None:
        """Write `guard.safetensors` and `guard.json` to a folder, which is made if it does not exist."""
        self.require_calibrated()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {"density": self.density.describe(), "quantile": self.quantile}
        if self.task is not None:
            described["task"] = self.task.describe()
        write_module(folder, "guard", self, described)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> ChunkGuard:
        """Read a guard, ready to judge; nothing is unpickled.

        Raises:
            UserError: A file is missing or damaged, or does not hold a calibrated guard.
        """
        folder = Path(folder)
        for file in (folder / "guard.json", folder / "guard.safetensors"):
            if not file.is_file():
                raise UserError(f"{file}: no such file: not a guard, which softflow-guard writes")
        try:
            guard = read_module(folder, "guard", cls._build)
            guard.density.normalizer.require_statistics()
            guard.limits.require_valid()
            guard.require_calibrated()
        except Exception as error:  # a description may ask for anything
            raise UserError(f"{folder}: the guard cannot be loaded: {one_line(error)}") from error
        return guard.to(device)

    @classmethod
    def _build(cls, description: dict[str, Any]) -> ChunkGuard:
        """Build a guard without thresholds from what `save` describes."""
        task = TaskSpec.build(description["task"]) if "task" in description else None
        guard = cls(FlowPolicy.build(**description["density"]), task=task)
        guard.quantile = float(description["quantile"])
        return guard


def _lower_quantile(scores: Tensor, quantile: float) -> Tensor:
    """Return the largest of the scores (N,) that another falls below with a probability of at most `quantile`."""
    rank = math.floor(quantile * (len(scores) + 1))
    if rank < 1:
        needed = math.ceil(1 / quantile) - 1
        raise ValueError(f"a quantile of {quantile:g} needs at least {needed} held-out chunks, got {len(scores)}")
    return scores.sort().values[rank - 1]
