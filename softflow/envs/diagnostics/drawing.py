"""Pictures of points, discs and rectangles in a plane, drawn with numpy alone.

Edges are antialiased: a pixel on an edge is coloured by the share of it that is covered. A movement of a small fraction
of a pixel therefore changes the picture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]


class View(NamedTuple):
    """Square part of the plane that a picture shows, with x to the right and y up."""

    x: float
    """Centre."""
    y: float
    """Centre."""
    side: float


class Canvas:
    """Draws on square pictures of a part of the plane. What lies outside of it is cut off.

    Args:
        view: The part of the plane.
        size: S, the height and width of a picture in pixels.
    """

    def __init__(self, view: View, size: int) -> None:
        self.view, self.size = view, size
        self.scale = size / view.side
        """Pixels per unit of the plane."""

    def blank(self, color: Color) -> Picture:
        """Return a picture (S, S, 3) of one colour."""
        return np.full((self.size, self.size, 3), color, np.uint8)

    def disc(self, picture: Picture, x: float, y: float, radius: float, color: Color) -> None:
        """Draw a disc on a picture (S, S, 3); a pixel is covered by its distance from the edge."""
        column, row = self._place(x, y)
        reach = radius * self.scale
        rows, columns = self._pixels(row - reach, row + reach), self._pixels(column - reach, column + reach)
        distance = np.hypot((rows + 0.5 - row)[:, None], columns + 0.5 - column)
        _blend(picture, rows, columns, np.minimum(np.maximum(reach + 0.5 - distance, 0), 1), color)

    def rectangle(self, picture: Picture, x: tuple[float, float], y: tuple[float, float], color: Color) -> None:
        """Draw a rectangle on a picture (S, S, 3), from the lower to the upper number of x and of y."""
        (left, bottom), (right, top) = self._place(x[0], y[0]), self._place(x[1], y[1])
        rows, columns = self._pixels(top, bottom), self._pixels(left, right)
        _blend(picture, rows, columns, np.outer(_covered(rows, top, bottom), _covered(columns, left, right)), color)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Return the column and row of a point, counted in pixels from the upper left corner of the picture."""
        view = self.view
        return self.size / 2 + (x - view.x) * self.scale, self.size / 2 - (y - view.y) * self.scale

    def _pixels(self, low: float, high: float) -> NDArray[np.intp]:
        """Return the rows or columns from `low` to `high`, and one more at each end, as far as the picture has them."""
        limits = (min(max(limit, 0), self.size) for limit in (math.floor(low) - 1, math.ceil(high) + 1))
        return np.arange(*limits)


def _covered(pixels: NDArray[np.intp], low: float, high: float) -> NDArray[np.float64]:
    """Return how much of each row or column lies between `low` and `high`."""
    return np.maximum(np.minimum(pixels + 1, high) - np.maximum(pixels, low), 0)


def _blend(
    picture: Picture, rows: NDArray[np.intp], columns: NDArray[np.intp], share: NDArray[np.float64], color: Color
) -> None:
    if share.size:
        part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part[:] = np.rint(part + share[..., None] * (np.array(color) - part))
