"""A policy of another project as the base of steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from flows import ChunkFlow
from flows.bases import GaussianBase
from softflow.errors import UserError, one_line, place_of
from softflow.policies.base_policy import BasePolicy
from softflow.policies.bases import open_base
from softflow.policies.normalizer import ObservationNormalizer
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout, ObservationSize


class ForeignPolicy(BasePolicy):
    """A policy that another project has trained, see `bases`. Its noise is the latent, with a standard normal density.

    It observes and acts in native units, so it works only once its task is known (`require_task`). Actions are clipped
    to their bounds. The head and the critic see the numbers of observations, and actions, in units of the statistics of
    the demonstrations. They see no images, but the features that the policy itself makes of an observation, if it shows
    any.

    A state holds these statistics and a digest of the policy, not its weights. Saving and loading a state compare the
    digest, so the policy is the same to the bit from the start of a run to its last use.

    Args:
        observation_dim: Dimension of the observation, O, or the layout of packed observations.
        action_dim: Dimension of an action, A.
        horizon: Number of actions in a chunk, H.
        reference: `module:name`, or the path of an ONNX file.
        options: Arguments of the constructor if the name is that of a class.
        normalize_actions: Whether the residual and the critic see actions in units of their statistics.

    Raises:
        ValueError: An observation has images alone, and the policy shows no features.
        UserError: See `open_base`.
    """

    kind = "foreign"
    encoder = None
    digest: Tensor
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_dim: ObservationSize,
        action_dim: int,
        horizon: int,
        reference: str,
        options: Mapping[str, Any] | None = None,
        normalize_actions: bool = True,
    ) -> None:
        self.layout = observation_dim if isinstance(observation_dim, ObservationLayout) else None
        numbers = observation_dim if isinstance(observation_dim, int) else observation_dim.number_count
        super().__init__(
            observation_dim if isinstance(observation_dim, int) else observation_dim.size, action_dim, horizon
        )
        self.flow_name = self.reference = reference
        self.options, self._normalizes_actions = dict(options or {}), normalize_actions
        self.model = open_base(reference, self.options)
        if not numbers + self.model.feature_count:
            raise ValueError(
                f"base {reference}: the task observes images alone, of which head and critic need features: give the "
                "base a method features(observation) and an attribute feature_count"
            )
        self.task: TaskSpec | None = None
        self.normalizer = ObservationNormalizer(numbers)
        self._latent_base = GaussianBase(math.prod(self.latent_shape))
        self.register_buffer("digest", torch.tensor(list(self.model.sha256()), dtype=torch.uint8))
        for name, value in (("center", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.full((action_dim,), torch.nan if normalize_actions else value))
        self.register_state_dict_pre_hook(_require_unchanged)
        self.register_load_state_dict_post_hook(_require_unchanged)

    def describe(self) -> dict[str, Any]:
        return {
            "observation_dim": self.observation_dim if self.layout is None else self.layout.describe(),
            "action_dim": self.action_dim,
            "horizon": self.horizon,
            "reference": self.reference,
            "options": self.options,
            "normalize_actions": self._normalizes_actions,
        }

    @classmethod
    def build(cls, **description: Any) -> ForeignPolicy:
        parts = description.get("observation_dim")
        if isinstance(parts, list):
            description["observation_dim"] = ObservationLayout.build(parts)
        return cls(**description)

    # ------------------------------------------------------------------------------------------------------ features

    @property
    def context_dim(self) -> int:
        return len(self.normalizer.mean) + self.model.feature_count

    @property
    def observation_size(self) -> ObservationSize:
        return self.layout or self.observation_dim

    def features(self, observation: Tensor) -> Tensor:
        """Return the normalised numbers of observations, and the features of the policy as they are: (B, O) -> (B, C).

        Raises:
            UserError: The policy fails, or returns features of another shape or numbers that are not finite.
            RuntimeError: It shows features, and the task is not known.
        """
        numbers = self.normalizer(self._numbers(observation))
        if not self.model.feature_count:
            return numbers
        given = self._called(self.model.features, observation)
        self._check("features", given, (len(observation), self.model.feature_count))
        return torch.cat((numbers, given.detach().to(numbers.dtype)), -1)

    def _numbers(self, observation: Tensor) -> Tensor:
        """Return all numbers of observations other than pixels, (B, K)."""
        if self.layout is None:
            return observation
        slices = self.layout.slices
        packed = [observation[:, slices[part.name]] for part in self.layout.parts if not part.is_image]
        return torch.cat([observation[:, :0], *packed], 1).contiguous().view(torch.float32)

    # ---------------------------------------------------------------------------------------------------- statistics

    def fit_actions(self, center: Tensor, scale: Tensor) -> None:
        """Set the centre and the scale of each action dimension, both (A,), if the policy normalises actions."""
        if not self._normalizes_actions:
            return
        self.center.copy_(center)
        self.scale.copy_(scale)

    def require_statistics(self) -> None:
        super().require_statistics()
        if not (self.center.isfinite().all() and self.scale.isfinite().all()):
            raise RuntimeError("the policy has no action statistics: fit them to demonstrations")

    @property
    def normalizes_actions(self) -> bool:
        """Whether the residual and the critic see normalised actions."""
        return self._normalizes_actions

    @property
    def action_center(self) -> Tensor:
        """The centre of each action dimension in the demonstrations, (A,); zeros if they are not normalised."""
        return self.center

    @property
    def action_scale(self) -> Tensor:
        """The scale of each action dimension in the demonstrations, (A,); ones if they are not normalised."""
        return self.scale

    # -------------------------------------------------------------------------------------------------------- chunks

    def require_task(self, task: TaskSpec) -> None:
        """Check that the task is the policy's, and act in it from now on."""
        super().require_task(task)
        self.model.require_task(task)
        self.task = task

    @property
    def flow(self) -> ChunkFlow:  # type: ignore[override]
        """There is none: raises UserError."""
        raise UserError(f"base {self.reference} has no density over chunks, which this needs: use the base of a run")

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.model.noise_shape or (0,)

    @property
    def latent_base(self) -> GaussianBase:
        return self._latent_base

    def propose(self, observation: Tensor, n: int = 1, temperature: float = 1.0, length: int | None = None) -> Tensor:
        noise = self.latent_base.sample(self.latent_base(self.features(observation)), n, temperature)
        return self.decode(observation, noise.unflatten(-1, self.latent_shape))[:, :, :length]

    def greedy(self, observation: Tensor) -> Tensor:
        return self.decode(observation, self.scale.new_zeros(len(observation), *self.latent_shape))

    def bc_loss(self, observation: Tensor, chunk: Tensor, weight: Tensor | None = None) -> Tensor:
        """Raise UserError: the policy is frozen."""
        raise UserError(f"base {self.reference} is frozen and cannot imitate")

    def decode(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Decode noise to chunks, clipped to the box: (B, O), (B, *n, *Z) -> (B, *n, H, A).

        Raises:
            UserError: The policy fails, or returns chunks of another shape or numbers that are not finite.
            RuntimeError: The task is not known.
        """
        samples = latent.shape[1 : latent.ndim - len(self.latent_shape)]
        if self.model.noise_shape is None:
            chunk = self._act(observation, None)
            between = chunk.reshape(len(chunk), *(1 for _ in samples), *chunk.shape[1:])
            return between.expand(len(chunk), *samples, *chunk.shape[1:])
        rows = observation.repeat_interleave(math.prod(samples), 0)
        return self._act(rows, latent.reshape(len(rows), *self.latent_shape)).unflatten(0, (len(observation), *samples))

    def _act(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """Return the chunks of the policy in [-1, 1]: (B, O), (B, *Z) -> (B, H, A)."""
        given = self._called(lambda native, device: self.model(native, noise, device), observation)
        assert self.task is not None
        low, high = (torch.from_numpy(bound).to(observation.device) for bound in (self.task.low, self.task.high))
        self._check("chunks", given, (len(observation), self.horizon, len(low)))
        free = low < high
        low, high = low[free], high[free]
        unit = 2 * (given[..., free].double() - low) / (high - low) - 1
        return unit.clamp(-1, 1).to(self.scale.dtype)

    def _called(self, function: Callable[[Mapping[str, NDArray[Any]], str], Any], observation: Tensor) -> Any:
        """Call a function of the policy with the parts of observations (B, O) in native units, and the device."""
        if self.task is None:
            raise RuntimeError(f"base {self.reference} sees and acts in native units: set the task of the policy first")
        packed = self.task.split(observation.numpy(force=True))
        native = {part.name: part.unpack(packed[part.name]) for part in self.task.observation}
        try:
            return function(native, str(observation.device))
        except Exception as error:  # somebody else's code
            raise UserError(f"base {self.reference} failed ({place_of(error)}): {one_line(error)}") from error

    def _check(self, what: str, given: Any, shape: tuple[int, ...]) -> None:
        if not isinstance(given, Tensor) or not given.is_floating_point():
            kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"base {self.reference} returned {kind}, expected a tensor of floats of shape {shape}")
        if given.shape != shape:
            is_length = given.ndim == len(shape) == 3 and given.shape[::2] == shape[::2]
            hint = f": set horizon to {given.shape[1]}" if is_length else ""
            raise UserError(f"base {self.reference} returned {what} {tuple(given.shape)}, expected {shape}{hint}")
        if not given.isfinite().all():
            raise UserError(f"base {self.reference} returned {what} with numbers that are not finite")


def _require_unchanged(policy: ForeignPolicy, *_: Any) -> None:
    """Raise UserError if the policy is not the one whose digest is in the state."""
    saved, present = bytes(policy.digest.tolist()), policy.model.sha256()
    if saved != present:
        raise UserError(
            f"base {policy.reference} has changed: its SHA-256 is {present.hex()[:12]}..., that of this run's base "
            f"{saved.hex()[:12]}...: bring back the base of this run, or start a new run"
        )
