"""What replays store of frames, where the policy's image encoder contains a frozen network."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softflow.data.archive import read_arrays, write_archive
from softflow.errors import UserError
from softflow.policies import ChunkPolicy
from softflow.policies.pixel_encoder import PixelEncoder

FEATURES_VERSION = 1


@dataclass(frozen=True)
class StoredRows:
    """What a replay stores of the observations of an episode, (T + 1, O) -> (T + 1, size)."""

    size: int
    dtype: np.dtype[Any]
    of_own: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    """Makes the rows of an own episode."""
    of_demonstration: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    """Makes those of a demonstration."""


class EncodedFrames:
    """Turns packed observations into rows of features, which a replay stores in their place.

    Once the heads of the encoder are fixed as well, a replay stores what they return, which takes less space and spares
    each update their forward pass.

    Features of demonstrations are also kept in files, one for each episode, so that a resumed run, or another one with
    the same `folder`, does not compute them again. A file is named by the SHA-256 of the observations and of everything
    else on which the features depend; so a changed encoder finds no file.

    Args:
        encoder: The frozen encoder. Its weights may still be loaded until the first frame is encoded.
        device: The device of the encoder.
        folder: The folder of the files.
    """

    def __init__(self, encoder: PixelEncoder, device: str, folder: Path) -> None:
        self._encoder, self._device, self._folder = encoder, device, folder

    @property
    def features(self) -> StoredRows:
        """Rows of features, with those of the copies: int16 (T + 1, E)."""
        size = self._encoder.encoded.size(1 + self._encoder.copies)
        return StoredRows(size, np.dtype(np.int16), self._features, self._features_of_demonstration)

    @property
    def read(self) -> StoredRows:
        """Rows of what the encoder returns, for as long as it is fixed: int32 (T + 1, R)."""
        return StoredRows(self._encoder.read_size, np.dtype(np.int32), self._read, self._read_of_demonstration)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the encoder's weights and preprocessing."""
        return self._encoder.digest()

    def _read(self, observation: NDArray[np.uint8]) -> NDArray[np.int32]:
        rows = self._encoder.encode(torch.tensor(observation, device=self._device))
        return self._encoder.read(rows).cpu().numpy()

    def _read_of_demonstration(self, observation: NDArray[np.uint8]) -> NDArray[np.int32]:
        rows = torch.from_numpy(self._features_of_demonstration(observation))
        return self._encoder.read(rows.to(self._device)).cpu().numpy()

    def _features(self, observation: NDArray[np.uint8]) -> NDArray[np.int16]:
        rows = self._encoder.encode(torch.tensor(observation, device=self._device), with_copies=True)
        return rows.cpu().numpy()

    def _features_of_demonstration(self, observation: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Return the features from a file, or encode the observations and write it.

        Raises:
            UserError: The file is damaged, or cannot be written.
        """
        name = hashlib.sha256(self.digest.encode())
        name.update(np.ascontiguousarray(observation).data)
        file = self._folder / f"{name.hexdigest()[:32]}.npz"
        if not file.is_file():
            rows = self._features(observation)
            write_archive(file, {"rows": rows}, FEATURES_VERSION)
            return rows
        try:
            rows = read_arrays(file, FEATURES_VERSION, only=("rows",))["rows"]
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: {error}: delete it, and it will be computed again") from error
        if rows.dtype != self.features.dtype or rows.shape != (len(observation), self.features.size):
            raise UserError(f"{file}: not features of these observations: delete it, and they will be computed again")
        return rows

    def announce(self, frames: int, raw_size: int, read_from: str | None) -> str:
        """Return a line that says what so many observations take, in memory and on disk.

        Args:
            frames: The number of demonstrated observations.
            raw_size: The size of one in bytes.
            read_from: The stage from which on the encoder is fixed. None if there is none.

        Raises:
            UserError: The disk has no room for them.
        """
        size, read_size = 2 * self.features.size, 4 * self.read.size
        beside = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
        free = shutil.disk_usage(beside).free
        if size * frames > free and not self._folder.exists():
            raise UserError(
                f"features of demonstrations take {size * frames / 1e9:,.1f} GB in {self._folder}, which has "
                f"{free / 1e9:,.1f} GB free: choose another --frame-cache or a smaller grid of the encoder"
            )
        later = (
            f"; from the stage {read_from} on, memory holds {read_size / 1e3:,.1f} kB of each, "
            f"{read_size * frames / 1e6:,.0f} MB"
        )
        return (
            f"encoder {self._encoder.trunk} is frozen: each of {frames:,} demonstrated observations is encoded once, "
            f"{size / 1e3:,.1f} kB in place of {raw_size / 1e3:,.1f} kB, {size * frames / 1e6:,.0f} MB in memory and "
            f"in {self._folder}{later if read_from is not None else ''}"
        )


def encoded_frames(policy: ChunkPolicy, device: str, folder: Path) -> EncodedFrames | None:
    """Return what encodes frames for a policy. None if it sees no images or learns to see them."""
    encoder: Any = policy.encoder
    if encoder is None or not encoder.is_frozen:
        return None
    return EncodedFrames(encoder, device, folder)
