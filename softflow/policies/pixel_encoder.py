"""From packed observations to features: a network for each camera, beside the numbers as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flows.plugins import Registry
from softflow.errors import did_you_mean
from softflow.policies.pretrained import FrozenResNet18
from softflow.task.layout import SMALLEST_IMAGE, ObservationLayout, Part

MAX_SHIFT = 1 / 20
"""The share of an image's height and width by which training shifts it at most: 3 pixels of 64."""


class PixelEncoder(nn.Module):
    """Images -> features: a trunk for each image, a linear layer on what it says, layer normalisation, tanh.

    In training (`train()`) each image is shifted at random by a few pixels, its border repeated, as in DrQ
    (arXiv 2004.13649, section 3.1).

    Args:
        layout: The layout of packed observations.
        trunk: The name of the network for each image, one of `ENCODERS`.
        features: How many features each image becomes.
        options: Options of the trunk.

    Raises:
        ValueError: There is no such trunk, it does not have an option or lacks one that it needs, or an image is
            smaller than `SMALLEST_IMAGE`.
        ImportError: The trunk's package is missing, or importing it fails.
    """

    def __init__(self, layout: ObservationLayout, trunk: str = "conv", *, features: int = 64, **options: Any) -> None:
        super().__init__()
        make_trunk = _find_trunk(trunk, options)
        self.layout, self.options = layout, {"features": features, **options}
        self._sizes = {part.name: part.size for part in layout.parts}
        self.trunk = trunk
        self.trunks, self.heads = nn.ModuleList(), nn.ModuleList()
        for part in layout.images:
            if min(part.shape[:2]) < SMALLEST_IMAGE:
                raise ValueError(
                    f"image {part.name!r} is {part.shape[:2]} pixels, an encoder needs {SMALLEST_IMAGE} of each"
                )
            network = make_trunk(part, **options)
            with torch.no_grad():
                height, width, channels = part.shape
                outputs = network(torch.zeros(1, channels, height, width)).shape[1]
            self.trunks.append(network)
            self.heads.append(nn.Sequential(nn.Linear(outputs, features), nn.LayerNorm(features), nn.Tanh()))
        self.feature_count = features * len(layout.images)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the features of all images, (B, feature_count).

        Args:
            observation: Packed observations, uint8 (B, O); or all their pixels and numbers, part after part, as
                float32 (B, P), for formats that cannot read bytes as numbers.

        Raises:
            ValueError: It is neither, for this layout.
        """
        encoded, dtype = [], next(self.heads.parameters()).dtype
        for part, trunk, head in zip(self.layout.images, self.trunks, self.heads, strict=True):
            pixels = self._values(observation, part).unflatten(1, part.shape)
            if self.training:
                pixels = shifted(pixels)
            encoded.append(head(trunk(pixels.permute(0, 3, 1, 2).to(dtype) / 255)))
        return torch.cat(encoded, -1)

    def describe(self) -> dict[str, Any]:
        """Return what a `FlowPolicy` must be given to build this encoder again.

        Pretrained weights are in the state and are not read again.
        """
        options = {name: "" if name == "weights" else value for name, value in self.options.items()}
        return {"observation_dim": self.layout.describe(), "encoder": self.trunk, "encoder_options": options}

    def fixed_state(self) -> dict[str, Tensor]:
        """Return the part of `state_dict` that no learning changes: the weights of a pretrained trunk."""
        learnt = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in learnt}

    def numbers(self, observation: Tensor) -> Tensor:
        """Return all numbers beside the images, part after part, (B, K), of observations as `forward` takes them.

        Raises:
            ValueError: `forward` does not take them.
        """
        parts = [part for part in self.layout.parts if not part.is_image]
        none = observation.new_zeros(observation.shape[0], 0, dtype=torch.float32)
        return torch.cat([none, *(self._values(observation, part) for part in parts)], -1)

    def _values(self, observation: Tensor, part: Part) -> Tensor:
        """Return the pixels of an image as they are stored, or the numbers of a part: (B, part.size)."""
        kind = observation.dtype, observation.ndim, observation.shape[-1]
        if kind == (torch.float32, 2, sum(self._sizes.values())):
            return observation.split(list(self._sizes.values()), 1)[list(self._sizes).index(part.name)]
        if kind != (torch.uint8, 2, self.layout.size):
            got = f"{observation.dtype} of shape {tuple(observation.shape)}"
            raise ValueError(f"expected packed observations, uint8 of shape (B, {self.layout.size}), got {got}")
        stored = observation[:, self.layout.slices[part.name]]
        if part.is_image:
            return stored
        # A copy, because bytes are read as numbers only from addresses that are multiples of four.
        return stored.clone(memory_format=torch.contiguous_format).view(torch.float32)


def shifted(images: Tensor) -> Tensor:
    """Move each image of (B, H, W, channels) at random by up to `MAX_SHIFT` along both axes, and repeat its border."""
    batch, height, width = images.shape[:3]
    down, right = (
        torch.arange(size, device=images.device)
        + torch.randint(-round(MAX_SHIFT * size), round(MAX_SHIFT * size) + 1, (batch, 1), device=images.device)
        for size in (height, width)
    )
    rows, columns = down.clamp(0, height - 1), right.clamp(0, width - 1)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return images[which, rows[:, :, None], columns[:, None, :]]


def conv(image: Part, *, width: int = 32) -> nn.Module:
    """Make a small convolutional network that is learnt from scratch. An eighth of the height and width remains."""
    return nn.Sequential(
        nn.Conv2d(image.shape[2], width, 8, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


Trunk = Callable[..., nn.Module]
"""Makes the network for one image, (B, channels, H, W) in [0, 1] -> (B, any number of features), of the image's `Part`
and its own options."""
ENCODERS: Registry[Trunk] = Registry("encoder", "softflow.encoders")
ENCODERS.register("conv", conv)
ENCODERS.register("resnet18", FrozenResNet18)

T = TypeVar("T", bound=Trunk)


def register_encoder(name: str) -> Callable[[T], T]:
    """Decorator that makes a `Trunk` available as `encoder: NAME`; packages may bring one by an entry point of the
    group `softflow.encoders`.

    Raises:
        ValueError: another one has this name.
    """
    return ENCODERS.decorator(name)


def _find_trunk(trunk: str, options: Mapping[str, Any]) -> Trunk:
    """The trunk of a name, after a look at whether it has these options."""
    make_trunk = ENCODERS.find(trunk)
    parameters = list(inspect.signature(make_trunk).parameters.values())[1:]
    known = [parameter.name for parameter in parameters]
    for name in options:
        if name not in known:
            raise ValueError(f"encoder {trunk!r} has no option {name!r}: {did_you_mean(name, [*known, 'features'])}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"encoder {trunk!r} needs its option {parameter.name!r}")
    return make_trunk
