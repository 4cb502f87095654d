"""A pretrained image network. Its weights come from a file; nothing is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from softflow.task.layout import Part

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet statistics of red, green and blue in [0, 1], with which the weights were trained."""


class FrozenResNet18(nn.Module):
    """Frozen ResNet-18 (arXiv 1512.03385) without its last layer: (B, 3, H, W) in [0, 1] -> (B, 512).

    Args:
        image: The image to encode, with three channels.
        weights: Path of torchvision's ResNet-18 weights, saved as `.safetensors` or by `torch.save`. "" leaves the
            weights random until the state of a policy is loaded.

    Raises:
        ImportError: torchvision is missing or does not fit torch.
        ValueError: The image does not have three channels, or the file is missing, unreadable or of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, image: Part, *, weights: str) -> None:
        super().__init__()
        try:
            from torchvision.models import resnet18
        except (ImportError, RuntimeError) as error:  # torchvision built for another torch raises RuntimeError
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
        """Stay in `eval()`, because the batch statistics are part of the pretrained weights."""
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
