"""A run-time monitor: is the chunk as likely as demonstrated chunks, and is the observation like theirs?

Each question is answered by a number and a threshold:

    log p(chunk | observation)    The exact log-density of the chunk under a frozen imitation policy. If it is low, the
                                  chunk is unlike anything demonstrated for this observation.
    distance(observation)         Mahalanobis distance of the raw observation from the training observations of the
                                  density. If it is large, the log-density of the chunk is not reliable.

The thresholds come from held-out demonstrations, because training demonstrations are far likelier than new ones. The
distance is needed because the log-density is conditional: given the same wrong observation, the policy and the density
agree.
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
"""Added to the variance of standardised observations, so that distances stay finite along constant dimensions."""
ROWS = 1024  # batch size of the calibration


class ChunkGuard(nn.Module):
    """Judges chunks by the density of an imitation policy, and limits them.

    Args:
        density: A trained imitation policy, a `FlowPolicy` with observation statistics. It is copied and frozen.
        low, high, rate: See `ActionLimits`.
        task: The observations and actions of the robot, which are saved with the guard. None if unknown.

    Raises:
        ValueError: `density` is not a `FlowPolicy`, reads images, or has a flow without an exact density; a limit is
            invalid; or the observations or actions of the task do not fit the density.
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
            raise ValueError("a guard measures the distance of numbers from the training data: it cannot judge images")
        if not density.flow.exact_density:
            raise ValueError(
                f"flow {density.flow_name!r} has no exact density, which a guard needs: train the imitation policy "
                "with another flow, such as 'coupling'"
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

    # ------------------------------------------------------------------------------------------------------- judging

    def log_prob(self, observation: Tensor, chunk: Tensor) -> Tensor:
        """Return log p(chunk | observation) of whole chunks, in nats: (B, O), (B, *n, H, A) -> (B, *n).

        The density is always that at temperature 1. Chunks drawn at a lower temperature are likelier than demonstrated
        ones. NaN is replaced by minus infinity.
        """
        return self.density.log_prob(observation, chunk).nan_to_num(-math.inf, math.inf, -math.inf)

    def distance(self, observation: Tensor) -> Tensor:
        """Return the Mahalanobis distance per dimension, (B, O) -> (B,).

        Its average is about 1 for the training observations of the density.
        """
        return torch.linalg.vector_norm(self._standardize(observation) @ self.whitening.mT, dim=-1) / math.sqrt(
            self.density.observation_dim
        )

    @torch.no_grad()
    def calibrate(self, learned: Tensor, observation: Tensor, chunk: Tensor, quantile: float = 0.05) -> None:
        """Set both thresholds so that each flags a new demonstration with a probability of at most `quantile`.

        This is split conformal prediction: the threshold is the floor(quantile * (N + 1))-th smallest of N scores (Vovk
        et al., Algorithmic Learning in a Random World, 2005). The probability is over demonstrations and over the
        held-out split, and is exact only if windows are exchangeable. Windows of one episode are similar, so use many
        episodes rather than many windows.

        Args:
            learned: Training observations of the density, (M, O).
            observation: Observations of held-out demonstrations, (N, O).
            chunk: The demonstrated chunks, (N, H, A), as returned by `softflow.data.whole_chunks`, which leaves out
                chunks that are cut short by the end of an episode.
            quantile: The probability, in (0, 1). Higher values flag more chunks.

        Raises:
            ValueError: A shape is wrong, a number is not finite, the quantile is not in (0, 1), or there are too few
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
        """Raise RuntimeError if the guard is not calibrated."""
        if not all(buffer.isfinite().all() for buffer in (self.threshold, self.distance_threshold, self.whitening)):
            raise RuntimeError("the guard has no thresholds: calibrate it on held-out demonstrations, or load one")

    def require_fit(self, deployed: BestOfN, name: str) -> None:
        """Check that the guard and a policy have the same task and horizon.

        If either has no task, the sizes of observations and actions are compared instead.

        Args:
            deployed: The policy.
            name: The name of the guard in error messages.

        Raises:
            TaskMismatch: The tasks differ; the message names every difference.
            UserError: The horizons or the sizes differ.
        """
        if self.task is not None and deployed.task is not None:
            deployed.task.require_same(self.task, f"{name} is of another task than the policy")
        sizes = [(one.observation_dim, one.horizon, one.action_dim) for one in (self.density, deployed.policy)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{name}: its observations, horizon and actions are of {sizes[0]} numbers, the policy's of {sizes[1]}: "
                "use a guard of the same environment and horizon"
            )

    def require_observations(self, rows: Tensor, name: str = "observation") -> None:
        """Raise ValueError unless `rows` are finite observations, (B, O)."""
        size = self.density.observation_dim
        if rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"{name}: expected (B, {size}), got {tuple(rows.shape)}")
        if not rows.isfinite().all():
            dims = (~rows.isfinite()).any(0).nonzero()[:, 0].tolist()
            raise ValueError(f"{name}: dimensions {dims} are not finite numbers: no action can be chosen")

    def _standardize(self, observation: Tensor) -> Tensor:
        """Standardise like the density's normaliser, but without clipping, so that a broken sensor is far away."""
        return (observation - self.density.normalizer.mean) / self.density.normalizer.std

    # -------------------------------------------------------------------------------------------------------- files

    def save(self, folder: str | Path) -> None:
        """Write `guard.safetensors` and `guard.json` to a folder, which is created if it does not exist."""
        self.require_calibrated()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {"density": self.density.describe(), "quantile": self.quantile}
        if self.task is not None:
            described["task"] = self.task.describe()
        write_module(folder, "guard", self, described)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> ChunkGuard:
        """Load a calibrated guard. Nothing is unpickled.

        Raises:
            UserError: A file is missing or damaged, or the guard is not calibrated.
        """
        folder = Path(folder)
        for file in (folder / "guard.json", folder / "guard.safetensors"):
            if not file.is_file():
                raise UserError(f"{file}: no such file: not the folder of a guard, which softflow-guard writes")
        try:
            guard = read_module(folder, "guard", cls._build)
            guard.density.require_statistics()
            guard.limits.require_valid()
            guard.require_calibrated()
        except Exception as error:  # an invalid description may raise anything
            raise UserError(f"{folder}: the guard cannot be loaded: {one_line(error)}") from error
        return guard.to(device)

    @classmethod
    def _build(cls, description: dict[str, Any]) -> ChunkGuard:
        """Build a guard without thresholds from the description that `save` writes."""
        task = TaskSpec.build(description["task"]) if "task" in description else None
        guard = cls(FlowPolicy.build(**description["density"]), task=task)
        guard.quantile = float(description["quantile"])
        return guard


def _lower_quantile(scores: Tensor, quantile: float) -> Tensor:
    """Return the largest of the scores (N,) below which a new score falls with probability at most `quantile`."""
    rank = math.floor(quantile * (len(scores) + 1))
    if rank < 1:
        needed = math.ceil(1 / quantile) - 1
        raise ValueError(f"a quantile of {quantile:g} needs at least {needed} held-out chunks, got {len(scores)}")
    return scores.sort().values[rank - 1]
