"""A pretrained network for images. Nothing is downloaded: its weights come from a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from softflow.task.layout import Part

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's colours, red, green and blue in [0, 1]: what such weights were trained with."""


class FrozenResNet18(nn.Module):
    """ResNet-18 (arXiv 1512.03385) without its last layer: (B, 3, H, W) in [0, 1] -> (B, 512). It does not learn.

    Args:
        image: of three channels.
        weights: a file of torchvision's ResNet-18, `.safetensors` or what `torch.save` writes; "" leaves them random,
            to be loaded with a policy's.

    Raises:
        ImportError: torchvision is missing, or does not fit torch.
        ValueError: another number of channels; the file is missing, unreadable, or of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, image: Part, *, weights: str) -> None:
        super().__init__()
        try:
            from torchvision.models import resnet18
        except (ImportError, RuntimeError) as error:  # the latter from one built for another torch
            raise ImportError(
                f"encoder 'resnet18' needs torchvision ({error}): pip install 'softflow[vision]'"
            ) from error
        if image.shape[2] != 3:
            raise ValueError(f"encoder 'resnet18' takes 3 channels, image {image.name!r} has {image.shape[2]}")
        self.network = resnet18(weights=None)
        self.network.fc = nn.Identity()
        if weights:
            _load(self.network, Path(weights))
        self.requires_grad_(False)
        for name, colours in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(colours)[:, None, None], persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenResNet18:
        """Stays in `eval()`: its batch statistics are part of what was learnt."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        return self.network((image - self.mean) / self.std)


def _load(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"encoder 'resnet18': weights {path}: no such file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        network.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    except (SafetensorError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"encoder 'resnet18': weights {path}: not of a ResNet-18 ({reason})") from error
