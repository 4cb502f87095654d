"""Checks that rows read from files are as a replay writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from softflow.data.windows import OF_IMAGES

BLOCK = 2**15
"""The number of rows that are checked at once."""
ROUNDING = 1e-6
"""Maximum error of a return, relative to the magnitudes of its terms."""


def check_rows(rows: Mapping[str, np.ndarray], written: int, capacity: int) -> None:
    """Check the rows of a ring of `capacity` rows, given by column of `row_dtype`.

    Args:
        rows: The columns.
        written: The number of rows written in total, overwritten ones included.
        capacity: The number of rows of the ring.

    Raises:
        ValueError: A number is not finite, an action is not in [-1, 1], or consecutive rows are not consecutive steps
            of episodes. The message names the row.
    """
    oldest = max(written - capacity, 0)
    for first in range(oldest, written, BLOCK):
        place = np.arange(first, min(first + BLOCK + 1, written)) % capacity  # includes the next block's first row
        block = {
            name: column[place]
            for name, column in rows.items()
            if name != "observation" or column.dtype not in OF_IMAGES
        }
        for name, good, problem in _checks(block):
            if not good.all():
                row = int(good.argmin())
                got = f", got {block[name][row]}" if block[name].ndim == 1 else ""
                raise ValueError(f"row {place[row]}: {name} {problem}{got}")
    if written and not oldest and not rows["remaining"][0]:
        raise ValueError("row 0: remaining is 0, but an episode begins here")
    if written and rows["remaining"][(written - 1) % capacity]:
        raise ValueError(f"row {(written - 1) % capacity}: remaining is not 0, but this is the last row")


def check_worth(worth: np.ndarray, remaining: np.ndarray) -> None:
    """Check the flags of the rows worth imitating, (rows,), against the steps that remain at each row.

    Raises:
        ValueError: The flags are not one bool for each row, or a final observation is worth imitating.
    """
    if worth.shape != remaining.shape or worth.dtype != np.bool_ or (worth.view(np.uint8) > 1).any():
        raise ValueError(
            f"imitable is {worth.dtype} of shape {worth.shape}, expected one bool for each of the {len(remaining)} rows"
        )
    if (final := worth & (remaining == 0)).any():
        raise ValueError(f"row {final.argmax()}: imitable is true, but no step begins here")


def _checks(block: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield for each check the name of the column, whether each row passes, and a message for one that fails."""
    if "observation" in block:
        yield "observation", np.isfinite(block["observation"]).all(1), "is not finite"
    yield "action", (np.abs(block["action"]) <= 1).all(1), "is not in [-1, 1]"
    for name in ("reward", "return_to_go"):
        yield name, np.isfinite(block[name]), "is not finite"
    for name in ("terminated", "success"):
        yield name, block[name].view(np.uint8) <= 1, "is neither true nor false"

    remaining, returns = block["remaining"], block["return_to_go"].astype(np.float64)
    goes_on = remaining[:-1] > 0
    yield "remaining", remaining >= 0, "is negative"
    yield (
        "remaining",
        np.where(goes_on, remaining[1:] == remaining[:-1] - 1, remaining[1:] > 0),
        "is not one more than in the next row, nor 0 before the first row of an episode",
    )
    for name in ("terminated", "success"):
        yield name, ~goes_on | (block[name][1:] == block[name][:-1]), "changes within an episode"
    yield "return_to_go", (remaining > 0) | (returns == 0), "is not 0 at the end of an episode"
    error = np.abs(returns[:-1] - (returns[1:] + block["reward"][:-1]))
    allowed = ROUNDING * (np.abs(returns[:-1]) + np.abs(returns[1:])) + np.finfo(np.float32).tiny
    yield "return_to_go", ~goes_on | (error <= allowed), "is not the reward and the return of the next row"
