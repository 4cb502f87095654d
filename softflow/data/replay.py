"""A replay buffer of primitive steps, which stores episodes and samples windows of up to H steps.

Every observation is stored once. A window is gathered when it is sampled. It may start at any step of an episode, and
is shorter than H at the end of the episode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from softflow.data.archive import read_arrays, read_into, write_archive
from softflow.data.episodes import Episode
from softflow.data.observation_statistics import ABSOLUTE_FLOOR
from softflow.data.replay_checks import check_rows
from softflow.data.replay_files import ReplayFiles
from softflow.data.windows import Windows, as_learned, concatenate
from softflow.errors import UserError

REPLAY_VERSION = 2


def row_dtype(observation_dim: int, action_dim: int, observation_dtype: DTypeLike = np.float32) -> np.dtype:
    """Return the structured dtype of a row of a replay. Its `itemsize` is the number of bytes per step."""
    return np.dtype(
        [
            ("observation", observation_dtype, (observation_dim,)),
            ("action", np.float32, (action_dim,)),
            ("reward", np.float32),
            ("remaining", np.int32),  # steps to the episode's end, 0 on its last row
            ("return_to_go", np.float32),
            ("terminated", np.bool_),  # the same for all rows of an episode, as is `success`
            ("success", np.bool_),
        ]
    )


class Replay:
    """A ring buffer of `capacity` rows, in which the oldest rows are overwritten first.

    An episode of T steps takes T + 1 consecutive rows, wrapping round the end of the ring; the last row contains the
    final observation. Overwriting therefore removes steps from the start of the oldest episode. Each row stores the
    steps `remaining` in its episode, so that no window can leave its episode or cross the write pointer.

    Args:
        capacity: The number of rows: one per primitive step and one more per episode.
        observation_dim: The size O of an observation.
        action_dim: The size A of an action.
        observation_dtype: The dtype of stored observations: uint8 if they are packed, else float32, or float16 to save
            memory. Windows contain float32 in either case.
        folder: If given, the rows are kept in files in this folder (see `ReplayFiles`) and not in memory. Only an index
            of the rows worth imitating, 8 bytes each, remains in memory.

    Raises:
        ValueError: A size is not positive.
        UserError: There is no room for `capacity` rows, or the files in `folder` do not belong to such a replay.
    """

    def __init__(
        self,
        capacity: int,
        observation_dim: int,
        action_dim: int,
        observation_dtype: DTypeLike = np.float32,
        folder: Path | None = None,
    ) -> None:
        for name, value in (("observation_dim", observation_dim), ("action_dim", action_dim), ("capacity", capacity)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.capacity = capacity
        columns = row_dtype(observation_dim, action_dim, observation_dtype)
        self._files = None if folder is None else ReplayFiles(folder, capacity, columns)
        try:
            in_memory = {name: np.zeros(capacity, columns[name]) for name in columns.names or () if folder is None}
            self._rows: dict[str, np.ndarray] = in_memory if self._files is None else self._files.rows
            self._imitable = np.empty(capacity, np.int64)  # a ring of indices of rows worth imitating, oldest first
        except MemoryError as error:
            raise UserError(f"a replay of {capacity:,} steps: {error}; set replay_capacity lower") from error
        self._imitable_start = 0
        self._imitable_steps = 0
        self._steps = 0
        self._written = 0  # rows written in total, overwritten ones included

    @property
    def steps(self) -> int:
        """The number of primitive steps stored. Each can be the start of a window."""
        return self._steps

    @property
    def imitable_steps(self) -> int:
        """The number of steps from which `sample(..., imitable=True)` draws."""
        return self._imitable_steps

    @property
    def nbytes(self) -> int:
        """The size in bytes of all rows, whether in use or not, and of their index."""
        return sum(column.nbytes for column in self._rows.values()) + self._imitable.nbytes

    def used_rows(self) -> dict[str, np.ndarray]:
        """Return the rows in use, by column of `row_dtype`. They are not copied, so the next episode changes them."""
        return {name: column[: self._filled] for name, column in self._rows.items()}

    def add_episode(self, episode: Episode) -> None:
        """Store `episode`, and overwrite the oldest rows once the ring is full.

        Raises:
            ValueError: The episode's dimensions differ, or its observations do not fit `observation_dtype`.
            UserError: The episode is longer than `capacity - 1` steps.
        """
        steps, rows = len(episode), self._rows
        for name, got in (("observation", episode.observation_dim), ("action", episode.action_dim)):
            if got != rows[name].shape[1]:
                raise ValueError(f"the episode's {name} has {got} dimensions, the replay's has {rows[name].shape[1]}")
        if steps + 1 > self.capacity:
            raise UserError(
                f"an episode of {steps:,} steps does not fit into a replay of {self.capacity:,} rows: start a run with "
                f"--replay-capacity {steps + 1} or more, or limit the episodes"
            )
        observation = _cast(episode.observation, rows["observation"].dtype)

        written = (self._written + np.arange(steps + 1)) % self.capacity
        overwritten = written[written < self._filled]
        if self._files is not None:
            self._files.protect(overwritten)
        self._steps += steps - int(np.count_nonzero(rows["remaining"][overwritten]))
        self._forget_imitable(int(np.count_nonzero(rows["return_to_go"][overwritten] > 0)))
        rows["observation"][written] = observation
        rows["action"][written] = np.pad(episode.action, ((0, 1), (0, 0)))
        rows["reward"][written] = np.pad(episode.reward, (0, 1))
        rows["remaining"][written] = np.arange(steps, -1, -1)
        rows["return_to_go"][written] = np.pad(np.cumsum(episode.reward[::-1], dtype=np.float64)[::-1], (0, 1))
        rows["terminated"][written] = episode.terminated
        rows["success"][written] = episode.is_success
        self._written += steps + 1
        self._note_imitable(written)

    def gather(self, rows: np.ndarray, horizon: int) -> Windows[np.ndarray]:
        """Return the windows of up to `horizon` steps that start at `rows` (B,).

        Raises:
            ValueError: `horizon` is not positive, or a row is not a stored step.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        rows = np.asarray(rows, np.int64)
        if np.any((rows < 0) | (rows >= self._filled)) or not np.all(self._rows["remaining"][rows]):
            raise ValueError("rows must be rows where a step is stored: take them from the `row` of a sampled batch")
        data, remaining = self._rows, self._rows["remaining"][rows]
        length = np.minimum(horizon, remaining).astype(np.int64)
        mask = np.arange(horizon) < length[:, None]
        steps = (rows[:, None] + np.minimum(np.arange(horizon), length[:, None] - 1)) % self.capacity
        return Windows(
            observation=as_learned(data["observation"][rows]),
            chunk=data["action"][steps],
            mask=mask,
            reward=np.where(mask, data["reward"][steps], np.float32(0)),
            length=length,
            next_observation=as_learned(data["observation"][(rows + length) % self.capacity]),
            terminated=data["terminated"][rows] & (length == remaining),
            success=data["success"][rows],
            return_to_go=data["return_to_go"][rows],
            row=rows,
        )

    def sample(
        self, batch_size: int, horizon: int, rng: np.random.Generator, imitable: bool = False
    ) -> Windows[np.ndarray]:
        """Sample `batch_size` windows, whose starts are drawn uniformly and with replacement from the stored steps.

        The cost does not grow with the number of rows.

        Args:
            batch_size: The number B of windows.
            horizon: The maximum length H of a window in steps.
            rng: The generator that draws the steps.
            imitable: Whether to draw only from steps worth imitating, which still have reward to come in their episode.

        Raises:
            ValueError: The replay is empty, or `horizon` is not positive.
            UserError: No step is worth imitating.
        """
        if not self.steps:
            raise ValueError("cannot sample from an empty replay: add episodes first")
        if imitable:
            if not self._imitable_steps:
                raise UserError(
                    "no step has reward after it, so nothing is worth imitating: give "
                    "demonstrations with a positive reward, for instance 1 on the step that succeeded"
                )
            drawn = self._imitable_start + rng.integers(self._imitable_steps, size=batch_size)
            return self.gather(self._imitable[drawn % self.capacity], horizon)
        # A final observation is not a step. At most about half of the rows are final, so redrawing ends quickly.
        rows = rng.integers(self._filled, size=batch_size)
        while len(final := np.flatnonzero(self._rows["remaining"][rows] == 0)):
            rows[final] = rng.integers(self._filled, size=len(final))
        return self.gather(rows, horizon)

    def save(self, path: Path) -> None:
        """Write a checkpoint to an .npz file, without copying the rows in memory.

        If the rows are kept in files, they stay there, and the checkpoint only contains how many were written.

        Raises:
            OSError: A file cannot be written.
        """
        state: dict[str, np.ndarray] = {"capacity": np.array(self.capacity), "written": np.array(self._written)}
        if self._files is None:
            state |= self.used_rows()
        else:
            self._files.mark(self._written)
        write_archive(path, state, REPLAY_VERSION)

    def load(self, path: Path) -> None:
        """Restore the contents of a checkpoint. Sampling continues exactly as it would have.

        The replay must not be used after an error.

        Raises:
            ValueError: The file is missing or damaged. Or its replay has another capacity, other dimensions, another
                observation dtype or another kind of storage, or its rows are not as `add_episode` writes them.
            UserError: The files of this replay cannot be restored to this checkpoint.
        """
        in_the_file = self._rows if self._files is None else {}
        state = read_arrays(path, REPLAY_VERSION, only=("capacity", "written"), others=in_the_file)
        capacity, written = (int(state[name]) for name in ("capacity", "written"))
        if capacity != self.capacity:
            raise ValueError(f"the state is of a replay of capacity {capacity}, this one has {self.capacity}")
        if written < 0:
            raise ValueError(f"written is {written}, expected 0 or more")
        if self._files is None:
            read_into(path, {name: column[: min(written, capacity)] for name, column in self._rows.items()})
        else:
            self._files.restore(written)
        check_rows(self._rows, written, capacity)
        self._written = written
        self._steps = int(np.count_nonzero(self._rows["remaining"][: self._filled]))
        self._forget_imitable(self._imitable_steps)
        oldest = (written - self._filled) % capacity
        self._note_imitable(np.arange(oldest, self._filled))
        self._note_imitable(np.arange(oldest))

    @property
    def _filled(self) -> int:
        return min(self._written, self.capacity)

    def _note_imitable(self, rows: np.ndarray) -> None:
        """Add the newest `rows` to the index, except those with no reward to come in their episode."""
        rows = rows[self._rows["return_to_go"][rows] > 0]
        end = self._imitable_start + self._imitable_steps
        self._imitable[(end + np.arange(len(rows))) % self.capacity] = rows
        self._imitable_steps += len(rows)

    def _forget_imitable(self, number: int) -> None:
        """Drop the oldest `number` rows from the index."""
        self._imitable_start = (self._imitable_start + number) % self.capacity
        self._imitable_steps -= number


def sample_mixed(
    offline: Replay,
    online: Replay,
    batch_size: int,
    horizon: int,
    rng: np.random.Generator,
    offline_share: float = 0.5,
    imitable: bool = False,
) -> Windows[np.ndarray]:
    """Sample a batch of which a share comes from demonstrations, and the rest from the policy's own episodes.

    The default share of one half is the symmetric sampling of RLPD (arXiv 2302.02948, section 4.1). The whole batch is
    offline until the first own episode has ended (with `imitable`, until one has earned a reward). Offline windows
    come first in the batch.

    Args:
        offline: The demonstrations.
        online: The policy's own episodes.
        batch_size: The number B of windows.
        horizon: The maximum length H of a window in steps.
        rng: The generator that draws the steps.
        offline_share: The share of the batch that is drawn from `offline`, in [0, 1].
        imitable: Whether to draw only from steps worth imitating (see `Replay.sample`).

    Raises:
        ValueError: `offline_share` is not in [0, 1], or a replay that is needed is empty.
    """
    if not 0 <= offline_share <= 1:
        raise ValueError(f"offline_share must be in [0, 1], got {offline_share}")
    available = online.imitable_steps if imitable else online.steps
    from_offline = round(batch_size * offline_share) if available else batch_size
    parts = [(offline, from_offline), (online, batch_size - from_offline)]
    return concatenate([replay.sample(count, horizon, rng, imitable) for replay, count in parts if count])


def _cast(observation: np.ndarray, dtype: Any) -> np.ndarray:
    """Cast `observation` to `dtype`.

    Raise `ValueError` if the rounding error exceeds 0.1 % of a dimension's magnitude, the precision of float16. The
    limit is relative so that dimensions in small units are not lost: float16 cannot represent numbers below 6e-8.
    """
    if dtype == observation.dtype:
        return observation
    if np.uint8 in (dtype, observation.dtype):
        raise ValueError(f"observations are {observation.dtype}, the replay's {dtype}: only packed ones are uint8")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = observation.astype(dtype)
    tolerance = 1e-3 * np.abs(observation).max(0) + ABSOLUTE_FLOOR
    if not (np.abs(stored.astype(np.float32) - observation) <= tolerance).all():
        raise ValueError(f"observations do not fit the replay's {dtype}: store them as float32")
    return stored
