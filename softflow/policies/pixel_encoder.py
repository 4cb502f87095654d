"""Image encoders for packed observations, with one network per camera."""

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
"""Maximum shift of an image in training, as a fraction of its height and width: 3 pixels of 64."""


class PixelEncoder(nn.Module):
    """Encodes each image with its own trunk, a linear layer, layer normalisation and tanh.

    In training mode, each image is shifted at random by a few pixels with its border repeated, as in DrQ
    (arXiv 2004.13649, section 3.1).

    Args:
        layout: Layout of the packed observations.
        trunk: Name of the network for each image, one of `ENCODERS`.
        features: Number of features per image. More features preserve more detail but enlarge the context.
        options: Options of the trunk.

    Raises:
        ValueError: The trunk is unknown, an option is unknown or missing, or an image is smaller than `SMALLEST_IMAGE`.
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
            observation: Packed observations, uint8 (B, O). For export formats that cannot reinterpret bytes, all pixels
                and numbers, part after part, as float32 (B, P).

        Raises:
            ValueError: The observation has neither form.
        """
        encoded, dtype = [], next(self.heads.parameters()).dtype
        for part, trunk, head in zip(self.layout.images, self.trunks, self.heads, strict=True):
            pixels = self._values(observation, part).unflatten(1, part.shape)
            if self.training:
                pixels = shifted(pixels)
            encoded.append(head(trunk(pixels.permute(0, 3, 1, 2).to(dtype) / 255)))
        return torch.cat(encoded, -1)

    def describe(self) -> dict[str, Any]:
        """Return the arguments of `FlowPolicy` that rebuild this encoder.

        They omit the path of pretrained weights, which are part of the state.
        """
        options = {name: "" if name == "weights" else value for name, value in self.options.items()}
        return {"observation_dim": self.layout.describe(), "encoder": self.trunk, "encoder_options": options}

    def fixed_state(self) -> dict[str, Tensor]:
        """Return the part of `state_dict` that training does not change: the weights of a pretrained trunk."""
        learnt = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in learnt}

    def numbers(self, observation: Tensor) -> Tensor:
        """Return all numbers other than pixels, part after part: (B, O) -> (B, K).

        Raises:
            ValueError: The observation has neither of the forms that `forward` takes.
        """
        parts = [part for part in self.layout.parts if not part.is_image]
        none = observation.new_zeros(observation.shape[0], 0, dtype=torch.float32)
        return torch.cat([none, *(self._values(observation, part) for part in parts)], -1)

    def _values(self, observation: Tensor, part: Part) -> Tensor:
        """Return the stored pixels of an image, or the numbers of another part: (B, part.size)."""
        kind = observation.dtype, observation.ndim, observation.shape[-1]
        if kind == (torch.float32, 2, sum(self._sizes.values())):
            return observation.split(list(self._sizes.values()), 1)[list(self._sizes).index(part.name)]
        if kind != (torch.uint8, 2, self.layout.size):
            got = f"{observation.dtype} of shape {tuple(observation.shape)}"
            raise ValueError(f"expected packed observations, uint8 of shape (B, {self.layout.size}), got {got}")
        stored = observation[:, self.layout.slices[part.name]]
        if part.is_image:
            return stored
        # Copy, because bytes can be viewed as float32 only at addresses that are multiples of four.
        return stored.clone(memory_format=torch.contiguous_format).view(torch.float32)


def shifted(images: Tensor) -> Tensor:
    """Shift each image of (B, H, W, channels) at random by up to `MAX_SHIFT` along both axes, repeating its border."""
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
    """Make a small convolutional network, trained from scratch, that reduces height and width to an eighth.

    Args:
        image: The image to encode.
        width: Number of channels of each convolution.
    """
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
"""Takes the `Part` of an image and options; makes a network (B, channels, H, W) in [0, 1] -> (B, any size)."""
ENCODERS: Registry[Trunk] = Registry("encoder", "softflow.encoders")
ENCODERS.register("conv", conv)
ENCODERS.register("resnet18", FrozenResNet18)

T = TypeVar("T", bound=Trunk)


def register_encoder(name: str) -> Callable[[T], T]:
    """Return a decorator that makes a `Trunk` available as `encoder: NAME`.

    Packages may instead define an entry point in the group `softflow.encoders`.

    Raises:
        ValueError: The name is already registered.
    """
    return ENCODERS.decorator(name)


def _find_trunk(trunk: str, options: Mapping[str, Any]) -> Trunk:
    """Return the trunk with a name, after checking that it takes these options."""
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
