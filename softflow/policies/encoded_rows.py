"""Rows that hold the features of images in place of their pixels: float16 features and float32 numbers, as int16.

The dtype tells them from packed observations, which are uint8, and from numbers alone, which are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float16).max


class EncodedRows:
    """The places of features and numbers in a row.

    A row has the features of one or more versions of each image, and then the numbers. Its size tells how many.

    Args:
        shapes: The shape of the features of each image.
        numbers: The number K of numbers.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], numbers: int) -> None:
        self._shapes, self._numbers = list(shapes), 2 * numbers
        self._sizes = [math.prod(shape) for shape in self._shapes]

    def size(self, versions: int) -> int:
        """Return the length E of a row with so many versions of each image, in int16."""
        return versions * sum(self._sizes) + self._numbers

    def versions(self, rows: Tensor) -> int:
        """Return how many versions of each image the rows hold.

        Raises:
            ValueError: These are not such rows, (B, E).
        """
        versions, rest = divmod(rows.shape[-1] - self._numbers, sum(self._sizes))
        if rows.dtype != torch.int16 or rows.ndim != 2 or rest or versions < 1:
            raise ValueError(
                f"expected encoded observations, int16 of shape (B, {self.size(1)}) or of more versions, got "
                f"{rows.dtype} of shape {tuple(rows.shape)}"
            )
        return versions

    def join(self, versions: Sequence[Sequence[Tensor]], numbers: Tensor) -> Tensor:
        """Make rows of features, one (B, *shape) for each image in each version, and numbers (B, K): (B, E) int16."""
        halves = [
            features.flatten(1).clamp(-LARGEST, LARGEST).half().view(torch.int16)
            for version in versions
            for features in version
        ]
        return torch.cat([*halves, numbers.contiguous().view(torch.int16)], 1)

    def features(self, rows: Tensor, version: Tensor | None = None) -> list[Tensor]:
        """Return the features of each image as float32, (B, *shape).

        Args:
            rows: The rows, (B, E).
            version: The version to take from each row, (B,). None takes the first.
        """
        count = self.versions(rows)
        given = rows[:, : rows.shape[1] - self._numbers].unflatten(1, (count, -1))
        chosen = given[:, 0] if version is None else given[torch.arange(len(rows), device=rows.device), version]
        values = chosen.view(torch.float16).split(self._sizes, 1)
        return [part.float().unflatten(1, shape) for part, shape in zip(values, self._shapes, strict=True)]

    def numbers(self, rows: Tensor) -> Tensor:
        """Return the numbers, (B, K) float32."""
        if not self._numbers:
            return rows.new_zeros(len(rows), 0, dtype=torch.float32)
        return rows[:, -self._numbers :].clone(memory_format=torch.contiguous_format).view(torch.float32)
