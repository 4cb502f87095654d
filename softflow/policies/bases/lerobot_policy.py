"""A policy that LeRobot has trained, as a base to steer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softflow.errors import UserError, did_you_mean

DETERMINISTIC, DIFFUSION, FLOW_MATCHING = ("act",), ("diffusion",), ("smolvla", "pi0", "pi05")
"""The types of policies that are known: without noise, with a gradient from the noise to the chunk, and without one."""
PREFIXES = ("observation.images.", "observation.")
IMAGES = "observation.images"
"""Where a diffusion policy looks for all images."""


class LeRobotPolicy(nn.Module):
    """Calls a policy of LeRobot with the parts of a task, behind its own pre-processors and post-processors.

    The noise from which a diffusion or flow-matching policy starts is its latent. Diffusion is sampled by DDIM, so that
    this noise decides the chunk.

    Args:
        path: The folder of the policy, `pretrained_model`.
        names: The part of the task that is each input of the policy, by the name of the input. By default it has the
            same name, with or without LeRobot's prefix.
        instruction: What the robot is to do, in words, for policies that read it.
        steps: Number of denoising steps. None keeps that of the policy; diffusion then makes 10.
        device: The device of the pre-processors, that of the run.

    Attributes:
        noise_shape: (H', A'), whose sizes may be larger than those of a chunk. None for a deterministic policy.

    Raises:
        UserError: lerobot or the folder is missing, or the policy is of a type that is not known or needs earlier
            observations.
    """

    processors: Tensor

    def __init__(
        self,
        path: str,
        names: Mapping[str, str] | None = None,
        instruction: str = "",
        steps: int | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        try:
            from lerobot.configs.policies import PreTrainedConfig  # type: ignore[import-not-found]
            from lerobot.policies.factory import (  # type: ignore[import-not-found]
                get_policy_class,
                make_pre_post_processors,
            )
        except ImportError as error:
            raise UserError(f"this base needs lerobot ({error}): pip install lerobot") from error
        if not Path(path).is_dir():
            raise UserError(f"path {path}: no such folder; download a policy of the hub first")
        config = PreTrainedConfig.from_pretrained(path)
        known = (*DETERMINISTIC, *DIFFUSION, *FLOW_MATCHING)
        if config.type not in known:
            raise UserError(
                f"a policy of LeRobot of type {config.type!r} is not known: {did_you_mean(config.type, known)}"
            )
        if config.n_obs_steps != 1:
            raise UserError(
                f"this policy of LeRobot reads {config.n_obs_steps} observations at once, a base is given the newest "
                "alone: train it with n_obs_steps 1"
            )
        self._kind, self._inputs, self._names = config.type, dict(config.input_features), dict(names or {})
        for name in self._names:
            if name not in self._inputs:
                raise UserError(f"names: the policy has no input {name!r}: {did_you_mean(name, self._inputs)}")
        self._instruction = instruction
        config.device = device
        _set_steps(config, steps)
        self.noise_shape = _noise_shape(config)
        self.policy = get_policy_class(config.type).from_pretrained(path, config=config)
        on_device = {"device_processor": {"device": device}}
        self._prepare, self._restore = make_pre_post_processors(
            config, path, preprocessor_overrides=on_device, postprocessor_overrides=on_device
        )
        digest = hashlib.sha256()
        for file in sorted(Path(path).glob("policy_*processor*")):  # statistics, which are no weights
            digest.update(file.read_bytes())
        self.register_buffer("processors", torch.tensor(list(digest.digest()), dtype=torch.uint8))

    def forward(self, observation: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Return chunks in native units: parts of the task (B, *shape), (B, *noise_shape) -> (B, H, A)."""
        batch: dict[str, Any] = {name: self._input(name, observation) for name in self._inputs}
        size = len(next(iter(batch.values())))
        batch = self._prepare(batch | ({"task": [self._instruction] * size} if self._instruction else {}))
        if self._kind in DIFFUSION:
            chunk = self.policy.diffusion.generate_actions(self._with_history(batch), noise=noise)
        elif noise is None:
            chunk = self.policy.predict_action_chunk(batch)
        else:
            self.policy.reset()
            chunk = self.policy.predict_action_chunk(batch, noise=noise)
        restored: Tensor = self._restore(chunk)
        return restored

    def _input(self, name: str, observation: dict[str, Tensor]) -> Tensor:
        """Return an input of the policy, as LeRobot's datasets have it: images channel first, float32 in [0, 1]."""
        part, shape = self._part(name, observation), tuple(self._inputs[name].shape)
        value = observation[part]
        if self._inputs[name].type.value != "VISUAL":
            value = value.flatten(1).float()
            if value.shape[1:] != shape:
                raise ValueError(f"{part!r} has {value.shape[1]} numbers, the policy's {name!r} {shape[0]}")
            return value
        if value.dtype != torch.uint8:
            raise ValueError(f"the image {part!r} is {value.dtype}, expected uint8")
        if value.ndim == 4 and value.shape[1:] != shape:
            value = value.movedim(-1, 1)
        if value.shape[1:] != shape:
            raise ValueError(
                f"the image {part!r} has the shape {tuple(observation[part].shape[1:])}, the policy's {name!r} {shape} "
                "with channels first"
            )
        return value.float() / 255

    def _part(self, name: str, observation: dict[str, Tensor]) -> str:
        short = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
        wanted = (self._names[name],) if name in self._names else (name, short)
        for part in observation:
            if part.replace("/", ".") in wanted or part in wanted:
                return part
        raise ValueError(
            f"the policy's input {name!r} is no part of the task: say which one it is, --base-options.names "
            f"'{{{name}: ...}}', of {', '.join(observation)}"
        )

    def _with_history(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the inputs of a diffusion policy, with an axis of one observation, and the images stacked."""
        cameras = [batch[name] for name in self.policy.config.image_features]
        inputs = {name: batch[name].unsqueeze(1) for name in self._inputs}
        return inputs | ({IMAGES: torch.stack(cameras, -4).unsqueeze(1)} if cameras else {})


def _set_steps(config: Any, steps: int | None) -> None:
    if config.type in DETERMINISTIC and steps is not None:
        raise UserError(f"a policy of type {config.type!r} has no denoising steps: leave steps out")
    if config.type in DIFFUSION:
        config.noise_scheduler_type, config.num_inference_steps = "DDIM", steps or 10
    elif steps is not None:
        setattr(config, "num_steps" if config.type == "smolvla" else "num_inference_steps", steps)


def _noise_shape(config: Any) -> tuple[int, ...] | None:
    if config.type in DETERMINISTIC:
        return None
    if config.type in DIFFUSION:
        return config.horizon, config.action_feature.shape[0]
    return config.chunk_size, config.max_action_dim
