"""Statistics of the features of a LeRobot dataset, by which policies normalise them.

LeRobot estimates the quantiles of an episode with a histogram, averages them over episodes, and takes a sample of the
images. Here all statistics are exact, over every step and pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.formats.lerobot.info import Feature

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Columns = Mapping[str, NDArray[Any]]
Statistics = dict[str, list[Any]]
"""The `min`, `max`, `mean`, `std`, `count` and quantiles of a feature."""


class DatasetStatistics:
    """Collects the statistics of a dataset while it is written.

    Args:
        features: The features, which are numbers or images.

    Attributes:
        episodes: The statistics of each episode by feature.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = features
        self._seen: dict[str, list[NDArray[Any]]] = {feature.name: [] for feature in features}
        self._steps = 0
        self.episodes: list[dict[str, Statistics]] = []

    def collect(self, episodes: Iterable[Columns]) -> Iterator[Columns]:
        """Yield the values (T, *shape) of each feature, episode by episode, as they are given."""
        for columns in episodes:
            for feature in self._features:
                values = columns[feature.name]
                self._seen[feature.name].append(_pixel_counts(values) if feature.is_image else values)
            steps = len(columns[self._features[0].name])
            self._steps += steps
            last = {name: seen[-1:] for name, seen in self._seen.items()}
            self.episodes.append(self._of(last, steps))
            yield columns

    def total(self) -> dict[str, Statistics]:
        """Return the statistics of all episodes together by feature."""
        return self._of(self._seen, self._steps)

    def _of(self, seen: Mapping[str, Sequence[NDArray[Any]]], steps: int) -> dict[str, Statistics]:
        return {
            feature.name: _image_statistics(np.sum(seen[feature.name], 0), steps)
            if feature.is_image
            else number_statistics(np.concatenate(seen[feature.name]))
            for feature in self._features
        }


def number_statistics(values: NDArray[Any]) -> Statistics:
    """Return the statistics of numbers (N, *shape), each of this shape."""
    exact = values.astype(np.float64)
    found = {name: getattr(exact, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0, method="inverted_cdf").tolist()
    return {**found, "count": [len(exact)], **dict(zip(QUANTILES, quantiles, strict=True))}


def _pixel_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of images (N, height, width, channels) by channel and brightness: (channels, 256)."""
    return np.stack(
        [np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(images.shape[3])]
    )


def _image_statistics(counts: NDArray[np.int64], images: int) -> Statistics:
    """Return the statistics of images from their pixel counts, (channels, 1, 1) each, from black at 0 to white at 1."""
    brightness, total = np.arange(256) / 255, counts.sum(1, keepdims=True)
    mean = (counts * brightness).sum(1, keepdims=True) / total
    variance = (counts * (brightness - mean) ** 2).sum(1, keepdims=True) / total
    found = {"mean": mean, "std": np.sqrt(variance)}
    for name, share in {"min": 0.0, "max": 1.0, **QUANTILES}.items():
        rank = np.maximum(np.ceil(share * total), 1)  # counted from the darkest pixel
        found[name] = brightness[(counts.cumsum(1) < rank).sum(1, keepdims=True)]
    return {**{name: values[..., None].tolist() for name, values in found.items()}, "count": [images]}
