"""Statistics of the features of a LeRobot dataset, by which policies normalise them.

LeRobot estimates quantiles with histograms, averages them over episodes, and takes images from a sample of the frames.
These are exact, over all steps and pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Statistics = dict[str, list[Any]]
"""By their names: `min`, `max`, `mean`, `std`, `count` and the quantiles."""


def number_statistics(values: NDArray[Any]) -> Statistics:
    """Return the statistics of numbers (N, *shape), each (*shape)."""
    exact = values.astype(np.float64)
    found = {name: getattr(exact, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0, method="inverted_cdf").tolist()
    return {**found, "count": [len(exact)], **dict(zip(QUANTILES, quantiles, strict=True))}


def pixel_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of images (N, height, width, channels) by channel and brightness: (channels, 256)."""
    return np.stack([np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(images.shape[3])])


def image_statistics(counts: NDArray[np.int64], images: int) -> Statistics:
    """Return the statistics of images, each (channels, 1, 1), with black as 0 and white as 1.

    Args:
        counts: The sum of their `pixel_counts`.
        images: Their number.
    """
    brightness, total = np.arange(256) / 255, counts.sum(1)
    mean = counts @ brightness / total
    variance = (counts * (brightness - mean[:, None]) ** 2).sum(1) / total
    shares = {"min": 0.0, "max": 1.0, **QUANTILES}
    ranks = {name: np.maximum(np.ceil(share * total), 1) for name, share in shares.items()}
    found = {name: brightness[(counts.cumsum(1) < rank[:, None]).sum(1)] for name, rank in ranks.items()}
    found |= {"mean": mean, "std": np.sqrt(variance)}
    return {**{name: values.reshape(-1, 1, 1).tolist() for name, values in found.items()}, "count": [images]}
