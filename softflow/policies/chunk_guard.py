"""A run-time monitor: is the chunk as likely as demonstrated chunks, and is the observation like theirs?

Each question is answered by a number and a threshold:

    log p(chunk | observation)    The exact log-density of the chunk under a frozen imitation policy. If it is low, the
                                  chunk is unlike anything demonstrated for this observation.
    distance(observation)         Mahalanobis distance of the raw observation from the training observations of the
                                  density. If it is large, the log-density of the chunk is not reliable. Images count
                                  by their average colours in a few cells: features of an encoder can be blind to what
                                  was never in its training data.

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
from torch.nn import functional

from softflow.errors import UserError, one_line
from softflow.policies.action_limits import ActionLimits, Limit
from softflow.policies.base import ChunkPolicy
from softflow.policies.best_of_n import BestOfN
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.pixel_encoder import ENCODED_AT_ONCE, PixelEncoder
from softflow.policies.weights import read_module, write_module
from softflow.task import TaskSpec

SHRINKAGE = 0.05
"""Added to the variance of standardised observations, so that distances stay finite along constant dimensions."""
CELLS = 4
"""Images are compared by the average colours in so many rows and columns of cells."""
GREY_LEVEL = 1 / 255
"""Smallest standard deviation of an average colour, so that a cell that never changed does not amplify noise."""
ROWS = 1024  # batch size of the calibration


class ChunkGuard(nn.Module):
    """Judges chunks by the density of an imitation policy, and limits them.

    Args:
        density: A trained imitation policy, a `FlowPolicy` with observation statistics. It is copied and frozen.
        low, high, rate: See `ActionLimits`.
        task: The observations and actions of the robot, which are saved with the guard. None if unknown.

    Raises:
        ValueError: `density` is not a `FlowPolicy`, or has a flow without an exact density; a limit is invalid; or the
            observations or actions of the task do not fit the density.
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
            raise ValueError(
                f"a guard needs the density of a FlowPolicy, got {type(density).__name__}: calibrate it on a run of "
                "--algo imitation; it can then guard any policy of this task"
            )
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
        size, self.colours = len(density.normalizer.mean), None
        if density.encoder is not None:
            colours = sum(CELLS * CELLS * image.shape[2] for image in density.encoder.layout.images)
            size, self.colours = size + colours, ObservationNormalizer(colours)
        self.register_buffer("threshold", torch.tensor(math.nan))
        self.register_buffer("distance_threshold", torch.tensor(math.nan))
        self.register_buffer("whitening", torch.full((size, size), math.nan))

    # ------------------------------------------------------------------------------------------------------- judging

    def summary(self, observation: Tensor, name: str = "observation") -> Tensor:
        """Check observations, and return what `distance` compares of them: (B, O) -> (B, S).

        These are the numbers, and the average colours of the images. Observations without images are returned as they
        are.

        Args:
            observation: The observations.
            name: Their name in error messages.

        Raises:
            ValueError: The shape or the dtype is wrong, or a number is not finite.
        """
        encoder, size = self.density.encoder, self.density.observation_dim
        if observation.ndim != 2 or observation.shape[1] != size:
            raise ValueError(f"{name}: expected (B, {size}), got {tuple(observation.shape)}")
        if encoder is not None and observation.dtype != torch.uint8:
            raise ValueError(f"{name}: expected packed observations, uint8, got {observation.dtype}")
        numbers = observation if encoder is None else encoder.numbers(observation)
        if not numbers.isfinite().all():
            dims = (~numbers.isfinite()).any(0).nonzero()[:, 0].tolist()
            raise ValueError(f"{name}: dimensions {dims} are not finite numbers: no action can be chosen")
        return numbers if encoder is None else torch.cat([numbers, _colours(encoder, observation)], -1)

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
        return self._distance(self.summary(observation))

    @torch.no_grad()
    def calibrate(self, learned: Tensor, observation: Tensor, chunk: Tensor, quantile: float = 0.05) -> None:
        """Set both thresholds so that each flags a new demonstration with a probability of at most `quantile`.

        This is split conformal prediction: the threshold is the floor(quantile * (N + 1))-th smallest of N scores (Vovk
        et al., Algorithmic Learning in a Random World, 2005). The probability is over demonstrations and over the
        held-out split, and is exact only if windows are exchangeable. Windows of one episode are similar, so use many
        episodes rather than many windows.

        Args:
            learned: The `summary` of the training observations of the density, (M, S).
            observation: Observations of held-out demonstrations, (N, O).
            chunk: The demonstrated chunks, (N, H, A), as returned by `softflow.data.whole_chunks`, which leaves out
                chunks that are cut short by the end of an episode.
            quantile: The probability, in (0, 1). Higher values flag more chunks.

        Raises:
            ValueError: A shape is wrong, a number is not finite, the quantile is not in (0, 1), or there are too few
                chunks for it.
        """
        for name, rows in (("learned", learned), ("observation", observation)):
            if not len(rows):
                raise ValueError(f"{name}: expected at least one row")
        if learned.ndim != 2 or learned.shape[1] != len(self.whitening) or not learned.isfinite().all():
            raise ValueError(f"learned: expected finite numbers (M, {len(self.whitening)}), got {tuple(learned.shape)}")
        summary = torch.cat([self.summary(rows) for rows in observation.split(ROWS)])
        expected = (len(observation), *self.density.latent_shape)
        if chunk.shape != expected or not chunk.isfinite().all():
            raise ValueError(f"chunk: expected finite numbers {expected}, got {tuple(chunk.shape)}")
        if not 0 < quantile < 1:
            raise ValueError(f"quantile: expected a number in (0, 1), got {quantile!r}")
        at_once = ROWS if self.colours is None else ENCODED_AT_ONCE  # images take far more memory
        batches = zip(observation.split(at_once), chunk.split(at_once), strict=True)
        scores = [self.log_prob(*rows) for rows in batches]
        threshold = _lower_quantile(torch.cat(scores), quantile)
        if not threshold.isfinite():
            raise ValueError(
                "chunk: at this quantile the held-out chunks have no density at all: check the actions' units"
            )
        if self.colours is not None:
            std, mean = torch.std_mean(self._split(learned)[1], 0, correction=0)
            self.colours.fit(mean, std.clamp(min=GREY_LEVEL))
        standard = self._standardize(learned).double()
        second_moment = standard.mT @ standard / len(standard)
        shrunk = second_moment + SHRINKAGE * torch.eye(len(second_moment)).to(second_moment)
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(shrunk)))
        self.threshold.copy_(threshold)
        self.distance_threshold.copy_(-_lower_quantile(-self._distance(summary), quantile))
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

    def _distance(self, summary: Tensor) -> Tensor:
        whitened = self._standardize(summary) @ self.whitening.mT
        return torch.linalg.vector_norm(whitened, dim=-1) / math.sqrt(len(self.whitening))

    def _standardize(self, summary: Tensor) -> Tensor:
        """Standardise by the training data, but without clipping, so that a broken sensor is far away."""
        numbers, colours = self._split(summary)
        numbers = self.density.normalizer.standardize(numbers)
        return numbers if self.colours is None else torch.cat([numbers, self.colours.standardize(colours)], -1)

    def _split(self, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers and the average colours in a summary."""
        numbers = len(self.density.normalizer.mean)
        return summary[:, :numbers], summary[:, numbers:]

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
            if guard.colours is not None:
                guard.colours.require_statistics()
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


def _colours(encoder: PixelEncoder, observation: Tensor) -> Tensor:
    """Return the average colours in [0, 1] of the cells of all images: packed uint8 (B, O) -> (B, S - K)."""
    averages = []
    for image in encoder.layout.images:
        pixels = observation[:, encoder.layout.slices[image.name]].unflatten(1, image.shape).permute(0, 3, 1, 2)
        averages.append(functional.adaptive_avg_pool2d(pixels.float() / 255, CELLS).flatten(1))
    return torch.cat(averages, 1)


def _lower_quantile(scores: Tensor, quantile: float) -> Tensor:
    """Return the largest of the scores (N,) below which a new score falls with probability at most `quantile`."""
    rank = math.floor(quantile * (len(scores) + 1))
    if rank < 1:
        needed = math.ceil(1 / quantile) - 1
        raise ValueError(
            f"a quantile of {quantile:g} needs at least {needed} held-out chunks, got {len(scores)}: give more "
            "demonstrations, or a higher quantile"
        )
    return scores.sort().values[rank - 1]
