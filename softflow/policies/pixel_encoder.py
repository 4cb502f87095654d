"""Image encoders for packed observations, with one network per camera."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flows.plugins import Registry
from softflow.errors import did_you_mean
from softflow.policies.encoded_rows import EncodedRows
from softflow.policies.mean_picture import MeanPicture
from softflow.policies.pooling import POOLINGS
from softflow.policies.pretrained import FrozenNetwork, require_source, timm_networks
from softflow.policies.random_shift import shifted
from softflow.task.layout import SMALLEST_IMAGE, ObservationLayout, Part

MAX_SHIFT = 1 / 20
"""Default of the option `shift`: 3 pixels of 64."""
ENCODED_AT_ONCE = 64
"""Number of observations that a frozen trunk reads at once."""
ENCODING_VERSION = 1
"""Version of what `encode` computes of the same weights. It is part of the digest."""


class PixelEncoder(nn.Module):
    """Encodes each image with a trunk and a head: a linear layer, layer normalisation and tanh.

    The head of a trunk that returns a grid of features pools it first, with learnt weights. Each image has its own
    trunk, but a frozen trunk reads all images of one shape.

    A trunk that learns reads images less the mean of the training data, which `fit` takes from them.

    In training mode, each image is shifted at random by a few pixels with its border repeated, as in DrQ
    (arXiv 2004.13649, section 3.1).

    What a frozen trunk computes of an observation can be kept: `encode` turns packed observations into rows of
    features, which every method takes in their place. Features in rows are rounded to float16. `read` goes as far as
    the heads, for as long as no weight of them changes.

    Args:
        layout: Layout of the packed observations.
        trunk: Name of the network for each image, one of `ENCODERS` or a network of timm.
        features: Number of features per image. More features preserve more detail but enlarge the context.
        pool: How a grid of features is pooled: `attention` (what a few learnt maps look at, and where) or
            `spatial_softmax` (only where).
        copies: Number of shifted copies of each image that `encode` adds if asked. In training, one of them or the
            image itself is drawn each time. They take as much time and memory as the image.
        shift: Maximum shift of an image in training, as a fraction of its height and width. 0 switches it off.
        options: Options of the trunk.

    Attributes:
        is_frozen: Whether no weight of a trunk is trained, so that `encode` may be used.

    Raises:
        ValueError: The trunk is unknown, an option is unknown, missing or invalid, or an image is smaller than
            `SMALLEST_IMAGE`.
        ImportError: The trunk's package is missing, or importing it fails.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        trunk: str = "conv",
        *,
        features: int = 64,
        pool: str = "attention",
        copies: int = 0,
        shift: float = MAX_SHIFT,
        **options: Any,
    ) -> None:
        super().__init__()
        make_trunk = _find_trunk(trunk, options)
        if pool not in POOLINGS:
            raise ValueError(f"encoder {trunk!r}: unknown pool {pool!r}: {did_you_mean(pool, POOLINGS)}")
        if not 0 <= shift < 0.5:
            raise ValueError(f"encoder {trunk!r}: shift must be in [0, 0.5), got {shift}")
        self.layout, self.trunk, self.copies, self.shift, self._trunk_options = layout, trunk, copies, shift, options
        self._sizes = {part.name: part.size for part in layout.parts}
        self.trunks, self.heads, self.is_frozen = nn.ModuleList(), nn.ModuleList(), True
        self._trunk_of: list[int] = []
        frozen: dict[tuple[int, ...], int] = {}
        shapes = []
        for part in layout.images:
            if min(part.shape[:2]) < SMALLEST_IMAGE:
                raise ValueError(
                    f"image {part.name!r} is {part.shape[:2]} pixels, an encoder needs {SMALLEST_IMAGE} of each"
                )
            number = frozen.get(part.shape)
            if number is None:
                network, number = make_trunk(part, **options), len(self.trunks)
                self.trunks.append(network)
                if any(weight.requires_grad for weight in network.parameters()):
                    self.is_frozen = False
                else:
                    frozen[part.shape] = number
            self._trunk_of.append(number)
            height, width, channels = part.shape
            with torch.no_grad():
                shapes.append(tuple(self.trunks[number](torch.zeros(1, channels, height, width)).shape[1:]))
            self.heads.append(_head(shapes[-1], pool, features))
        if copies < 0 or (copies and not self.is_frozen):
            raise ValueError(f"encoder {trunk!r}: copies is {copies}: only a frozen encoder has copies, 0 or more")
        self.mean_picture = None if self.is_frozen else MeanPicture(layout.images)
        self.encoded = EncodedRows(shapes, layout.number_count)
        own: dict[str, Any] = {"features": features}
        if any(len(shape) == 3 for shape in shapes):
            own["pool"] = pool
        if copies:
            own["copies"] = copies
        if shift != MAX_SHIFT:
            own["shift"] = shift
        self.options = {**own, **_without_files(self.trunks[0], options)}
        self.feature_count = features * len(layout.images)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the features of all images, (B, feature_count).

        Args:
            observation: Packed observations, uint8 (B, O), or what `encode` or `read` returned for them. For export
                formats that cannot reinterpret bytes, all pixels and numbers, part after part, as float32 (B, P).

        Raises:
            ValueError: The observation has none of these forms.
        """
        if observation.dtype == torch.int32:
            return self._read(observation)[0]
        if observation.dtype == torch.int16:
            seen = self.encoded.features(observation, self._drawn(observation) if self.training else None)
        else:
            seen = self._seen(observation, self.training)
        return torch.cat([head(features) for head, features in zip(self.heads, seen, strict=True)], -1)

    @torch.no_grad()
    def fit(self, observation: Tensor) -> None:
        """Take the mean of the images from packed observations, uint8 (N, O). A frozen encoder needs none."""
        if self.mean_picture is not None:
            for index, part in enumerate(self.layout.images):
                self.mean_picture.fit(index, self._values(observation, part).unflatten(1, part.shape) / 255)

    @torch.no_grad()
    def encode(self, observation: Tensor, with_copies: bool = False) -> Tensor:
        """Return rows of features in place of images: packed uint8 (B, O) -> int16 (B, E).

        Shifts of the copies depend on nothing but the place in the batch, so equal batches have equal rows.

        Raises:
            ValueError: The encoder learns, or the observation is not packed.
        """
        if not self.is_frozen:
            raise ValueError(f"encoder {self.trunk!r} learns: what it makes of an image cannot be kept")
        shifts = torch.Generator().manual_seed(0)
        rows = []
        for batch in observation.split(ENCODED_AT_ONCE):
            versions = [self._seen(batch, shift=False)]
            versions += [self._seen(batch, shift=True, generator=shifts) for _ in range(self.copies * with_copies)]
            rows.append(self.encoded.join(versions, self.numbers(batch)))
        return torch.cat(rows)

    @torch.no_grad()
    def read(self, observation: Tensor) -> Tensor:
        """Return the result of `forward` and the numbers as rows that both take: (B, O) -> int32 (B, R).

        Both are float32, whose bits the rows hold.
        """
        return torch.cat([self(observation), self.numbers(observation)], -1).view(torch.int32)

    def digest(self) -> str:
        """Return the SHA-256 of everything on which the result of `encode` depends beside the observation."""
        options = [_without_files(trunk, self._trunk_options) for trunk in self.trunks]
        parts = ENCODING_VERSION, self.copies and self.shift, self.copies, self.layout.describe(), self.trunk, options
        digest = hashlib.sha256(repr(parts).encode())
        for name, tensor in self.trunks.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def varies(self) -> bool:
        """Whether training mode draws what is returned: a shift of each image, or one of its copies."""
        return self.copies > 0 if self.is_frozen else self.shift > 0

    @property
    def read_size(self) -> int:
        """The length R of a row that `read` returns, in int32."""
        return self.feature_count + self.layout.number_count

    def describe(self) -> dict[str, Any]:
        """Return the arguments of `FlowPolicy` that rebuild this encoder.

        They omit the path of pretrained weights, which are part of the state.
        """
        return {"observation_dim": self.layout.describe(), "encoder": self.trunk, "encoder_options": self.options}

    def fixed_state(self) -> dict[str, Tensor]:
        """Return the part of `state_dict` that training does not change: the weights of a pretrained trunk."""
        learnt = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in learnt}

    def numbers(self, observation: Tensor) -> Tensor:
        """Return all numbers other than pixels, part after part: (B, O) -> (B, K).

        Raises:
            ValueError: The observation has none of the forms that `forward` takes.
        """
        if observation.dtype == torch.int32:
            return self._read(observation)[1]
        if observation.dtype == torch.int16:
            return self.encoded.numbers(observation)
        parts = [part for part in self.layout.parts if not part.is_image]
        none = observation.new_zeros(observation.shape[0], 0, dtype=torch.float32)
        return torch.cat([none, *(self._values(observation, part) for part in parts)], -1)

    def _seen(self, observation: Tensor, shift: bool, generator: torch.Generator | None = None) -> list[Tensor]:
        """Return what the trunks make of each image, (B, *shape)."""
        seen, dtype = [], next(self.heads.parameters()).dtype
        for index, (part, number) in enumerate(zip(self.layout.images, self._trunk_of, strict=True)):
            pixels = self._values(observation, part).unflatten(1, part.shape).to(dtype) / 255
            if self.mean_picture is not None:
                pixels = self.mean_picture(index, pixels)
            if shift:
                pixels = shifted(pixels, self.shift, generator)
            seen.append(self.trunks[number](pixels.permute(0, 3, 1, 2)))
        return seen

    def _read(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the features (B, feature_count) and the numbers (B, K) in the result of `read`."""
        if rows.ndim != 2 or rows.shape[1] != self.read_size:
            wanted = f"int32 of shape (B, {self.read_size})"
            raise ValueError(f"expected read observations, {wanted}, got {tuple(rows.shape)}")
        return rows.view(torch.float32).split([self.feature_count, self.layout.number_count], 1)

    def _drawn(self, rows: Tensor) -> Tensor | None:
        """Draw a version of the images for each row, (B,)."""
        versions = self.encoded.versions(rows)
        return torch.randint(versions, (len(rows),), device=rows.device) if versions > 1 else None

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


def _without_files(trunk: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that rebuild a trunk whose weights are then loaded."""
    if isinstance(trunk, FrozenNetwork):
        return trunk.options
    return {name: "" if name == "weights" else value for name, value in options.items()}


def _head(shape: tuple[int, ...], pool: str, features: int) -> nn.Sequential:
    """Make the learnt layers behind a trunk that returns (B, *shape): a vector, or a grid (h, w, C) of features."""
    pooling = [POOLINGS[pool](*shape)] if len(shape) == 3 else []
    outputs = pooling[0].outputs if pooling else shape[0]
    return nn.Sequential(*pooling, nn.Linear(outputs, features), nn.LayerNorm(features), nn.Tanh())


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
"""Takes the `Part` of an image and options; makes a network (B, channels, H, W) -> (B, C), or (B, h, w, C), a grid of
features that is pooled. A network without a weight that is trained is frozen, and returns the same features always. It
reads images in [0, 1]; one that learns reads them less the mean of the training data."""
ENCODERS: Registry[Trunk] = Registry("encoder", "softflow.encoders")
ENCODERS.register("conv", conv)

T = TypeVar("T", bound=Trunk)


def register_encoder(name: str) -> Callable[[T], T]:
    """Return a decorator that makes a `Trunk` available as `encoder: NAME`.

    Packages may instead define an entry point in the group `softflow.encoders`.

    Raises:
        ValueError: The name is already registered.
    """
    return ENCODERS.decorator(name)


def find_trunk(name: str) -> Trunk:
    """Return the trunk with a name: a registered one, or else a network of timm.

    Raises:
        ValueError: The name is unknown.
        ImportError: Its package is missing, or importing it fails.
    """
    if name in ENCODERS.names():
        return ENCODERS.find(name)
    ours = ENCODERS.names()
    if name not in (networks := timm_networks(name)):
        near = did_you_mean(name, [*ours, *networks], [*ours, "the networks of timm"])
        raise ValueError(f"unknown encoder {name!r}: {near}")
    return partial(FrozenNetwork, name)


def _find_trunk(trunk: str, options: Mapping[str, Any]) -> Trunk:
    """Return the trunk with a name, after checking that it takes these options."""
    make_trunk = find_trunk(trunk)
    parameters = list(inspect.signature(make_trunk).parameters.values())[1:]
    known = [parameter.name for parameter in parameters]
    for name in options:
        if name not in known:
            near = did_you_mean(name, [*known, *OWN_OPTIONS])
            raise ValueError(f"encoder {trunk!r} has no option {name!r}: {near}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"encoder {trunk!r} needs its option {parameter.name!r}")
    return make_trunk


OWN_OPTIONS = ("features", "pool", "copies", "shift")
"""Options that every encoder has."""


def require_encoder(name: str, options: Mapping[str, Any]) -> None:
    """Raise `ValueError` or `ImportError` if an encoder or an option is unknown, or a network has no weights."""
    trunk = _find_trunk(name, {key: value for key, value in options.items() if key not in OWN_OPTIONS})
    if isinstance(trunk, partial) and trunk.func is FrozenNetwork:
        require_source(name, options.get("weights"), options.get("download", False))
