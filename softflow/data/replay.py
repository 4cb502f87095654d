"""A replay buffer of primitive steps, which stores episodes and samples windows of up to H steps.

Every observation is stored once. A window is gathered when it is sampled. It may start at any step of an episode, and
is shorter than H at the end of the episode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from softflow.data.archive import read_arrays, read_into, write_archive
from softflow.data.episode_rows import EpisodeRows
from softflow.data.episodes import Episode
from softflow.data.imitable import REWARD_TO_COME, ImitationRule, returns_to_go
from softflow.data.imitable_rows import ImitableRows
from softflow.data.proposal_ring import PROPOSALS_STATE, ProposalRing
from softflow.data.replay_checks import check_rows, check_worth
from softflow.data.replay_files import ReplayFiles
from softflow.data.replay_rows import cast_observation, row_dtype, zeros_on_demand
from softflow.data.windows import Windows, as_learned
from softflow.errors import UserError

REPLAY_VERSION = 2
WORTH = "imitable"
"""Name of the array of a checkpoint with the flags of the rows worth imitating."""


class Replay:
    """A ring buffer of `capacity` rows, in which the oldest rows are overwritten first.

    An episode of T steps takes T + 1 consecutive rows, wrapping round the end of the ring; the last row contains the
    final observation. Overwriting therefore removes steps from the start of the oldest episode. Each row stores the
    steps `remaining` in its episode, so that no window can leave its episode or cross the write pointer.

    Of an episode with `proposals`, the chunks worth imitating are those that the policy proposed and that were executed
    as proposed. They are kept whole beside the rows, and forgotten with them.

    Args:
        capacity: The number of rows: one per primitive step and one more per episode. They take memory as they are
            written.
        observation_dim: The size O of an observation.
        action_dim: The size A of an action.
        observation_dtype: The dtype of stored observations: uint8 if they are packed, int16 if encoded, int32 if read,
            else float32, or float16 to save memory. Windows contain float32 for the latter two.
        folder: If given, the rows are kept in files in this folder (see `ReplayFiles`) and not in memory. Only a flag
            of each row, 1 byte, and an index of the rows worth imitating, 8 bytes each, remain in memory.
        horizon: The number H of actions in a proposed chunk. None if no episode has proposals.
        n_action_steps: The number of steps that each proposed chunk is executed for. `capacity / n_action_steps`
            proposals are kept. If decisions are more frequent, because many episodes are very short, the oldest
            proposals are forgotten before their rows.
        imitate: The rule that decides which steps are worth imitating, as `ImitationRule.choose` returned it.
        fixed: Whether the replay is filled once, by `capacity` rows, and neither saved nor loaded. Packed observations
            are then not copied: they stay in the file of their dataset, or are moved to one (see `EpisodeRows`).
        observation_rows: Makes the rows (T + 1, O) to store of an episode's observations. By default they are the same.

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
        horizon: int | None = None,
        n_action_steps: int = 1,
        imitate: ImitationRule = REWARD_TO_COME,
        fixed: bool = False,
        observation_rows: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> None:
        for name, value in (("observation_dim", observation_dim), ("action_dim", action_dim), ("capacity", capacity)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.capacity, self._rule, self._fixed = capacity, imitate, fixed
        self._observation_rows = observation_rows
        columns = row_dtype(observation_dim, action_dim, observation_dtype)
        self._files = None if folder is None else ReplayFiles(folder, capacity, columns)
        refers = fixed and columns["observation"].base == np.uint8
        names = [name for name in columns.names or () if not (refers and name == "observation")]
        try:
            self._rows: dict[str, np.ndarray] = (
                {name: zeros_on_demand((capacity, *columns[name].shape), columns[name].base) for name in names}
                if self._files is None
                else self._files.rows
            )
            self._observation = EpisodeRows(capacity, observation_dim) if refers else self._rows["observation"]
            self._imitable = ImitableRows(capacity)
            self._proposals: ProposalRing | None = None
            if horizon is not None:
                kept, beside = -(-capacity // n_action_steps), folder / "proposals" if folder is not None else None
                self._proposals = ProposalRing(kept, horizon, action_dim, beside)
        except MemoryError as error:
            raise UserError(f"a replay of {capacity:,} steps: {error}; set replay_capacity lower") from error
        self._steps = 0
        self._largest_return = 0.0
        self._written = 0  # rows written in total, overwritten ones included

    @property
    def steps(self) -> int:
        """The number of primitive steps stored. Each can be the start of a window."""
        return self._steps

    @property
    def observation_dtype(self) -> np.dtype:
        """The dtype of stored observations."""
        return self._observation.dtype

    @property
    def imitable_steps(self) -> int:
        """The number of steps from which `sample(..., imitable=True)` draws."""
        return len(self._imitable) + self.proposals

    @property
    def proposals(self) -> int:
        """The number of proposed chunks worth imitating."""
        return 0 if self._proposals is None else len(self._proposals)

    @property
    def largest_return(self) -> float:
        """The largest magnitude of the return from any step to the end of its episode; 1 if there was no reward."""
        return self._largest_return or 1.0

    @property
    def nbytes(self) -> int:
        """The size in bytes of all rows and proposals, whether in use or not, and of their index."""
        proposals = 0 if self._proposals is None else self._proposals.nbytes
        referred = self._observation.nbytes if isinstance(self._observation, EpisodeRows) else 0
        return sum(column.nbytes for column in self._rows.values()) + referred + self._imitable.nbytes + proposals

    def used_rows(self) -> dict[str, np.ndarray]:
        """Return the rows in use, by column of `row_dtype`. They are not copied, so the next episode changes them.

        Observations that stay with their episodes are not among them.
        """
        return {name: column[: self._filled] for name, column in self._rows.items()}

    def add_episode(self, episode: Episode) -> None:
        """Store `episode`, and overwrite the oldest rows once the ring is full.

        Raises:
            ValueError: The episode's dimensions or the horizon of its proposals differ, or its observations do not fit
                `observation_dtype`.
            UserError: The episode is longer than `capacity - 1` steps.
        """
        steps, rows = len(episode), self._rows
        observation = self._observation_rows(episode.observation)
        for name, got, column in (
            ("observation", observation.shape[1], self._observation),
            ("action", episode.action_dim, rows["action"]),
        ):
            if got != column.shape[1]:
                raise ValueError(f"the episode's {name} has {got} dimensions, the replay's has {column.shape[1]}")
        if episode.proposals is not None:
            given, kept = episode.proposals.horizon, None if self._proposals is None else self._proposals.horizon
            if given != kept:
                raise ValueError(f"the episode's proposals have horizon {given}, the replay's {kept}")
        if steps + 1 > self.capacity:
            raise UserError(
                f"an episode of {steps:,} steps does not fit into a replay of {self.capacity:,} rows: start a run with "
                f"--replay-capacity {steps + 1} or more, or limit the episodes"
            )
        if self._fixed and self._written + steps + 1 > self.capacity:
            raise ValueError(f"a fixed replay of {self.capacity:,} rows cannot take more: make it larger")
        observation = cast_observation(observation, self._observation.dtype)
        worth = self._rule.worth(episode)

        numbers = self._written + np.arange(steps + 1)
        written = numbers % self.capacity
        in_use = written < self._filled
        overwritten = written[in_use]
        if self._files is not None:
            self._files.protect(overwritten)
        self._steps += steps - int(np.count_nonzero(rows["remaining"][overwritten]))
        self._imitable.forget(overwritten[self._without_proposals(numbers[in_use] - self.capacity)])
        self._observation[written] = observation
        rows["action"][written] = np.pad(episode.action, ((0, 1), (0, 0)))
        rows["reward"][written] = np.pad(episode.reward, (0, 1))
        rows["remaining"][written] = np.arange(steps, -1, -1)
        return_to_go = returns_to_go(episode.reward)
        self._largest_return = max(self._largest_return, float(np.abs(return_to_go).max()))
        rows["return_to_go"][written] = np.pad(return_to_go, (0, 1))
        rows["terminated"][written] = episode.terminated
        rows["success"][written] = episode.is_success
        self._imitable.worth[written] = np.pad(worth, (0, 1))
        self._written += steps + 1
        if self._proposals is not None:
            self._proposals.add(numbers, episode.proposals, self._imitable.worth[written])
            self._proposals.forget_before(self._oldest)
        if episode.proposals is None:
            self._imitable.add(written)

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
            observation=as_learned(self._observation[rows]),
            chunk=data["action"][steps],
            mask=mask,
            reward=np.where(mask, data["reward"][steps], np.float32(0)),
            length=length,
            next_observation=as_learned(self._observation[(rows + length) % self.capacity]),
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
            imitable: Whether to draw only from steps worth imitating by the rule `imitate`. Of episodes with proposals,
                these are the decisions whose chunk was executed as proposed. `chunk` is then the chunk of up to H
                actions that the policy proposed, before clipping, also beyond `length`.

        Raises:
            ValueError: The replay is empty, or `horizon` is not positive or longer than the proposed chunks.
            UserError: No step is worth imitating.
        """
        if not self.steps:
            raise ValueError("cannot sample from an empty replay: add episodes first")
        if imitable:
            if not self.imitable_steps:
                raise self._rule.nothing()
            return self._gather_imitable(rng.integers(self.imitable_steps, size=batch_size), horizon)
        # A final observation is not a step. At most about half of the rows are final, so redrawing ends quickly.
        rows = rng.integers(self._filled, size=batch_size)
        while len(final := np.flatnonzero(self._rows["remaining"][rows] == 0)):
            rows[final] = rng.integers(self._filled, size=len(final))
        return self.gather(rows, horizon)

    def save(self, path: Path) -> None:
        """Write a checkpoint to an .npz file, without copying the rows in memory.

        If the rows are kept in files, they stay there, and the checkpoint only contains how many were written and which
        are worth imitating.

        Raises:
            OSError: A file cannot be written.
            ValueError: The replay is fixed.
        """
        self._require_not_fixed()
        state: dict[str, np.ndarray] = {"capacity": np.array(self.capacity), "written": np.array(self._written)}
        state[WORTH] = self._imitable.worth[: self._filled]
        if self._proposals is not None:
            state |= self._proposals.state()
        if self._files is None:
            state |= self.used_rows()
        else:
            self._files.mark(self._written)
        write_archive(path, state, REPLAY_VERSION)

    def load(self, path: Path) -> None:
        """Restore the contents of a checkpoint. Sampling continues exactly as it would have.

        In checkpoints of earlier versions, the steps with reward to come are worth imitating.

        The replay must not be used after an error.

        Raises:
            ValueError: This replay is fixed. Or the file is missing or damaged. Or its replay has another capacity,
                other dimensions, another observation dtype or another kind of storage, or its rows are not as
                `add_episode` writes them.
            UserError: The files of this replay cannot be restored to this checkpoint.
        """
        self._require_not_fixed()
        in_the_file = dict(self._rows) if self._files is None else {}
        needed, optional = ("capacity", "written"), (WORTH, *(PROPOSALS_STATE if self._proposals is not None else ()))
        if self._files is None and self._proposals is not None:
            in_the_file |= self._proposals.columns
        state = read_arrays(path, REPLAY_VERSION, only=needed, optional=optional, others=in_the_file)
        capacity, written = (int(state[name]) for name in needed)
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
        if self._proposals is not None:
            self._proposals.load(path, state)
            self._proposals.forget_before(self._oldest)
        self._largest_return = float(np.abs(self._rows["return_to_go"][: self._filled]).max(initial=0.0))
        numbers = np.arange(self._oldest, written)
        worth = state.get(WORTH, self._rows["return_to_go"][: self._filled] > 0)
        check_worth(worth, self._rows["remaining"][: self._filled])
        self._imitable.restore(worth, numbers[self._without_proposals(numbers)] % capacity)
        if self._proposals is not None:
            self._proposals.check(self._imitable.worth, written)

    def _require_not_fixed(self) -> None:
        if self._fixed:
            raise ValueError("a fixed replay is neither saved nor loaded: fill a new one with the same episodes")

    @property
    def _filled(self) -> int:
        return min(self._written, self.capacity)

    @property
    def _oldest(self) -> int:
        """The number of the oldest row in use, of those written in total."""
        return self._written - self._filled

    def _gather_imitable(self, drawn: np.ndarray, horizon: int) -> Windows[np.ndarray]:
        """Return the windows with the numbers `drawn` (B,): first the rows worth imitating, then the proposals."""
        proposed = np.flatnonzero(drawn >= len(self._imitable))
        rows = self._imitable.take(drawn)
        if self._proposals is None or not len(proposed):
            return self.gather(rows, horizon)
        if horizon > self._proposals.horizon:
            raise ValueError(f"horizon is {horizon}, but proposed chunks have {self._proposals.horizon} actions")
        numbers, chunks = self._proposals.take(drawn[proposed] - len(self._imitable))
        rows[proposed] = numbers % self.capacity
        windows = self.gather(rows, horizon)
        windows.chunk[proposed] = chunks[:, :horizon]
        return windows

    def _without_proposals(self, numbers: np.ndarray) -> np.ndarray:
        """Return for rows by their `numbers` (of those written in total) whether their episodes have no proposals."""
        return np.ones(len(numbers), bool) if self._proposals is None else ~self._proposals.covers(numbers)
