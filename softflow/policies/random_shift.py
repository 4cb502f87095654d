"""Random shifts of images, as in DrQ (arXiv 2004.13649, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(images: Tensor, most: float, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image of (B, H, W, channels) at random along both axes, repeating its border.

    Args:
        images: The images.
        most: The largest shift, as a fraction of height and width.
        generator: A generator of the CPU. None takes the default one of the device.
    """
    batch, height, width, channels = images.shape
    where = images.device if generator is None else torch.device("cpu")
    down, right = (
        torch.arange(size, device=images.device)
        + torch.randint(-round(most * size), round(most * size) + 1, (batch, 1), device=where, generator=generator).to(
            images.device
        )
        for size in (height, width)
    )
    rows, columns = down.clamp(0, height - 1), right.clamp(0, width - 1)
    which = torch.arange(batch, device=images.device)[:, None, None]
    pixels = (which * height + rows[:, :, None]) * width + columns[:, None, :]
    return images.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)
