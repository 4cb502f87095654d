"""Recognising HDF5 files without h5py."""

from __future__ import annotations

from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Return whether there is an HDF5 file, damaged or not, at the path."""
    if not path.is_file():
        return False
    with path.open("rb") as start:
        return start.read(len(SIGNATURE)) == SIGNATURE
