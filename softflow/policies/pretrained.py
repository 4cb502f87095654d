"""Pretrained image networks of timm. Their weights come from a file, unless a download is asked for."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from softflow.errors import did_you_mean, one_line
from softflow.policies.efficientnet_names import with_timm_names
from softflow.task.layout import Part


def require_source(model: str, weights: str | None = None, download: bool = False) -> None:
    """Raise `ValueError` unless exactly one source of the weights of a network is given."""
    if weights is None and not download:
        raise ValueError(
            f"encoder {model!r} needs its weights: give --encoder-options.weights FILE, or "
            "--encoder-options.download true"
        )
    if weights is not None and download:
        raise ValueError(f"encoder {model!r}: both weights and download are given: leave one out")


class FrozenNetwork(nn.Module):
    """A frozen network of timm up to its last grid of features: (B, 3, H, W) in [0, 1] -> (B, h, w, C).

    Images are resized to a square and standardised as timm's configuration of the weights says. The class token of a
    transformer is left out. Copies share one set of weights, because nothing changes them.

    Args:
        model: Name of the network in timm.
        image: The image to encode, with three channels.
        weights: Path of the weights, `.safetensors` or saved by `torch.save`. "" leaves them random until the state of
            a policy is loaded.
        download: Whether to download the weights that timm names for the network, in place of `weights`.
        size: Height and width to which images are resized. 0 takes the size that the weights were trained with.
            Smaller images are encoded faster, in proportion to their area.
        grid: Largest height and width of the grid of features. A finer grid is averaged to it.

    Raises:
        ImportError: timm is missing.
        ValueError: The image does not have three channels, there are no weights, their file is missing or unreadable or
            has weights of another network, or the network has no grid of features or cannot read images of this size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str,
        image: Part,
        *,
        weights: str | None = None,
        download: bool = False,
        size: int = 0,
        grid: int = 4,
    ) -> None:
        super().__init__()
        if image.shape[2] != 3:
            raise ValueError(f"encoder {model!r} takes 3 channels, image {image.name!r} has {image.shape[2]}")
        require_source(model, weights, download)
        if size < 0 or grid < 1:
            raise ValueError(f"encoder {model!r}: size must be at least 0 and grid at least 1, got {size} and {grid}")
        timm = import_timm(model)
        config = timm.get_pretrained_cfg(model)
        self.size, self.grid = size or config.input_size[1], grid
        fixed = {"img_size": self.size} if config.fixed_input_size else {}
        try:
            self.network = timm.create_model(model, pretrained=download, num_classes=0, **fixed)
        except Exception as error:  # timm and its hub raise many types
            raise ValueError(f"encoder {model!r} cannot be made: {one_line(error)}") from error
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"encoder {model!r} has no grid of features: choose another network of timm")
        if weights:
            _load(self.network, model, Path(weights), config.classifier)
        self.requires_grad_(False)
        for name, colours in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(colours)[:, None, None])
        self.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, self.size, self.size))
        except AssertionError as error:  # timm's, such as of a size that is no multiple of the patches
            raise ValueError(
                f"encoder {model!r} cannot read images of {self.size} x {self.size} pixels: choose another "
                f"--encoder-options.size ({one_line(error)})"
            ) from error

    @property
    def options(self) -> dict[str, Any]:
        """The options that rebuild the network, without its weights, whatever timm's configuration is by then."""
        return {"weights": "", "size": self.size, "grid": self.grid}

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay in `eval()`, because the batch statistics are part of the pretrained weights."""
        return super().train(False)

    def __deepcopy__(self, memo: Any) -> FrozenNetwork:
        return self

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2:] != (self.size, self.size):
            image = functional.interpolate(image, (self.size, self.size), mode="bicubic").clamp(0, 1)
        [features] = self.network.forward_intermediates(
            (image - self.mean) / self.std, indices=1, norm=True, intermediates_only=True
        )
        return _averaged(features, self.grid).permute(0, 2, 3, 1)


def _averaged(features: Tensor, grid: int) -> Tensor:
    """Average a grid (B, C, h, w) to at most `grid` rows and columns, by matrices, which every format can export."""
    rows, columns = (
        functional.adaptive_avg_pool1d(torch.eye(size, dtype=features.dtype, device=features.device), min(size, grid))
        for size in features.shape[2:]
    )
    return rows.T @ features @ columns


def import_timm(model: str) -> Any:
    """Import timm, which imports torchvision.

    Raises:
        ImportError: One of them is missing or does not fit torch.
    """
    try:
        _import_torchvision()
        import timm
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"encoder {model!r} is none of ours, and a network of timm needs timm ({one_line(error)}): "
            "pip install 'softflow[vision]'"
        ) from error
    return timm


def timm_networks(model: str) -> list[str]:
    """Return the names of timm's networks, without tags of weights. Errors say that `model` may be one of them.

    Raises:
        ImportError: timm is missing or does not fit torch.
    """
    return list(import_timm(model).list_models())


_declared: list[torch.library.Library] = []


def _import_torchvision() -> None:
    """Import torchvision, also beside a torch for another device, where its compiled operators do not load.

    timm uses none of them, but torchvision registers functions for two of them, which must exist.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # the operators vanish with it
        import_module("torchvision")


def _load(network: nn.Module, model: str, path: Path, classifier: str | tuple[str, ...] | None) -> None:
    """Load weights from a file. Those of the classifier, which the network lacks, are left out."""
    where = f"encoder {model!r}: weights {path}"
    if not path.is_file():
        raise ValueError(f"{where}: no such file")
    try:
        given = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{where}: not a file of weights ({reason})") from error
    if not isinstance(given, Mapping) or not all(isinstance(tensor, Tensor) for tensor in given.values()):
        raise ValueError(f"{where}: expected weights by name, as `state_dict` returns them")
    wanted = network.state_dict()
    state = with_timm_names(given, wanted)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:  # resizes position embeddings, and knows the names of the authors' own files
        try:
            state = convert(state, network)
        except Exception as error:  # of many types, where weights are of another network
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"{where}: not weights of this network ({reason})") from error
    classifiers = (classifier,) if isinstance(classifier, str) else classifier or ()
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted or not name.startswith(tuple(f"{one}." for one in classifiers))
    }
    _require_fit(where, {name: tensor.shape for name, tensor in wanted.items()}, state)
    network.load_state_dict(state)


def _require_fit(where: str, wanted: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` that names the first weight that is missing, unknown or of another shape."""
    for name, shape in wanted.items():
        if name not in state:
            raise ValueError(f"{where}: {name!r} is missing: is it of another network?")
        if state[name].shape != shape:
            raise ValueError(f"{where}: {name!r} has shape {tuple(state[name].shape)}, expected {tuple(shape)}")
    for name in state:
        if name not in wanted:
            raise ValueError(f"{where}: {name!r} is not in the network: {did_you_mean(name, list(wanted))}")
