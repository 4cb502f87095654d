"""Arrays that are written piece by piece are read as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softflow.data.archive import Pieces, read_arrays, write_archive


@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_become_one_array_in_whatever_order_they_lie_in_memory(tmp_path: Path, order: str) -> None:
    pieces = [np.arange(6).reshape(2, 3), np.arange(9).reshape(3, 3)]
    write_archive(tmp_path / "a.npz", {"a": Pieces([np.array(piece, order=order) for piece in pieces])}, 1)  # type: ignore[call-overload]
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz", 1)["a"], np.concatenate(pieces))
