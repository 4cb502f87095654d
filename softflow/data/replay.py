"""Replay of primitive steps: episodes go in, windows of up to H steps come out.

Every observation is stored once. A window is gathered when it is sampled, from any step of an episode, and is short
where the episode ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from softflow.data.episodes import Episode
from softflow.errors import UserError

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT")


@dataclass(frozen=True, eq=False)
class Windows(Generic[ArrayT]):
    """B windows of up to H steps, as numpy arrays or (see `to_torch`) tensors.

    Attributes:
        observation: (B, O) float32, or uint8 if they are packed, where the window starts.
        chunk: (B, H, A) float32, the actions executed; beyond `length` the last of them is held, so that the steps
            just before an episode's end have whole chunks to learn from.
        mask: (B, H) bool, True for the first `length` steps.
        reward: (B, H) float32, per step; zero beyond `length`.
        length: (B,) int64, k = min(H, steps left in the episode), at least 1.
        next_observation: (B, O) of the same dtype, k steps on; the true final observation where the episode ends.
        terminated: (B,) bool, the window reaches the end of its episode and that end is terminal: do not bootstrap.
            False at a time limit.
        success: (B,) bool, the episode solved the task.
        return_to_go: (B,) float32, undiscounted sum of rewards from here to the end of the episode.
        row: (B,) int64, the row of the replay where the window starts.
    """

    observation: ArrayT
    chunk: ArrayT
    mask: ArrayT
    reward: ArrayT
    length: ArrayT
    next_observation: ArrayT
    terminated: ArrayT
    success: ArrayT
    return_to_go: ArrayT
    row: ArrayT


def to_torch(windows: Windows[np.ndarray], device: str | torch.device = "cpu") -> Windows[torch.Tensor]:
    """The same windows as tensors on `device`, dtypes kept. On the CPU they share memory."""
    import torch  # only here, so that processes that step environments need not load it

    return Windows(**{f.name: torch.from_numpy(getattr(windows, f.name)).to(device) for f in fields(Windows)})


def observation_tensor(observation: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """An environment's observations (B, O) as a policy takes them: packed ones as they are, numbers as float32."""
    import torch

    return torch.as_tensor(_as_learned(observation), device=device)


def concatenate(windows: Sequence[Windows[np.ndarray]]) -> Windows[np.ndarray]:
    """One batch of all `windows`, in order; they share one horizon."""
    return Windows(**{f.name: np.concatenate([getattr(w, f.name) for w in windows]) for f in fields(Windows)})


class Replay:
    """A ring of `capacity` rows, the oldest overwritten first.

    An episode of T steps takes T + 1 consecutive rows (the last holds the final observation), wrapping round the end
    of the ring. Overwriting thus removes episodes from their front, and each row knows how many steps `remain` in
    its episode: no window can leave its episode or cross the write pointer.

    Args:
        capacity: number of rows, one per primitive step and one more per episode.
        observation_dim: O.
        action_dim: A.
        observation_dtype: how observations are stored: uint8 those that are packed; numbers as float32, or as float16
            to save memory, but in windows as float32 either way.

    Raises:
        ValueError: a size is not positive.
        UserError: there is not enough memory for `capacity` rows.
    """

    def __init__(
        self, capacity: int, observation_dim: int, action_dim: int, observation_dtype: DTypeLike = np.float32
    ) -> None:
        for name, value in (("observation_dim", observation_dim), ("action_dim", action_dim), ("capacity", capacity)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.capacity = capacity
        try:
            observations = np.zeros((capacity, observation_dim), observation_dtype)
        except MemoryError as error:
            raise UserError(f"a replay of {capacity:,} steps: {error}; set replay_capacity lower") from error
        self._rows: dict[str, np.ndarray] = {
            "observation": observations,
            "action": np.zeros((capacity, action_dim), np.float32),
            "reward": np.zeros(capacity, np.float32),
            "remaining": np.zeros(capacity, np.int32),  # steps to the episode's end, 0 on its last row
            "terminated": np.zeros(capacity, np.bool_),  # of the episode, as is `success`
            "success": np.zeros(capacity, np.bool_),
            "return_to_go": np.zeros(capacity, np.float32),
            "serial": np.zeros(capacity, np.int64),  # the episode was the serial-th added
        }
        self._cursor = 0
        self._filled = 0
        self._steps = 0
        self._episodes_added = 0
        self._successes_added = 0
        self._imitable: np.ndarray | None = None  # rows, built when asked for, dropped when rows change

    @property
    def steps(self) -> int:
        """Number of primitive steps stored; each is the start of a window."""
        return self._steps

    @property
    def imitable_steps(self) -> int:
        """Number of steps that `sample(..., imitable=True)` draws from."""
        return len(self._imitable_rows())

    def add_episode(self, episode: Episode) -> None:
        """Store `episode`, over the oldest rows once the ring is full.

        Raises:
            ValueError: its dimensions are not the replay's, it is longer than `capacity - 1` steps, or its
                observations do not fit `observation_dtype`.
        """
        steps, rows = len(episode), self._rows
        for name, got in (("observation", episode.observation_dim), ("action", episode.action_dim)):
            if got != rows[name].shape[1]:
                raise ValueError(f"the episode's {name} has {got} dimensions, the replay's has {rows[name].shape[1]}")
        if steps + 1 > self.capacity:
            raise ValueError(
                f"an episode of {steps} steps needs {steps + 1} rows, the replay has {self.capacity}: raise `capacity`"
            )
        observation = _cast(episode.observation, rows["observation"].dtype)

        written = (self._cursor + np.arange(steps + 1)) % self.capacity
        self._steps += steps - int(np.count_nonzero(rows["remaining"][written]))
        rows["observation"][written] = observation
        rows["action"][written] = np.pad(episode.action, ((0, 1), (0, 0)))
        rows["reward"][written] = np.pad(episode.reward, (0, 1))
        rows["remaining"][written] = np.arange(steps, -1, -1)
        rows["terminated"][written] = episode.terminated
        rows["success"][written] = episode.is_success
        rows["return_to_go"][written] = np.pad(np.cumsum(episode.reward[::-1], dtype=np.float64)[::-1], (0, 1))
        rows["serial"][written] = self._episodes_added

        self._filled = max(self._filled, min(self._cursor + steps + 1, self.capacity))
        self._cursor = (self._cursor + steps + 1) % self.capacity
        self._episodes_added += 1
        self._successes_added += episode.is_success
        self._imitable = None

    def gather(self, rows: np.ndarray, horizon: int) -> Windows[np.ndarray]:
        """The windows of up to `horizon` steps that start at `rows` (B,).

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
            observation=_as_learned(data["observation"][rows]),
            chunk=data["action"][steps],
            mask=mask,
            reward=np.where(mask, data["reward"][steps], np.float32(0)),
            length=length,
            next_observation=_as_learned(data["observation"][(rows + length) % self.capacity]),
            terminated=data["terminated"][rows] & (length == remaining),
            success=data["success"][rows],
            return_to_go=data["return_to_go"][rows],
            row=rows,
        )

    def sample(
        self, batch_size: int, horizon: int, rng: np.random.Generator, imitable: bool = False
    ) -> Windows[np.ndarray]:
        """Windows that start at `batch_size` steps, uniform over those stored, with replacement. The cost does not
        grow with the number of rows.

        With `imitable`, uniform over the steps worth imitating: those after which reward still comes in their episode.

        Raises:
            ValueError: the replay is empty, or `horizon` is not positive.
            UserError: no step is worth imitating.
        """
        if not self.steps:
            raise ValueError("cannot sample from an empty replay: add episodes first")
        if imitable:
            rows = self._imitable_rows()
            if not len(rows):
                raise UserError(
                    "no step has reward after it, so nothing is worth imitating: give "
                    "demonstrations with a positive reward, for instance 1 on the step that succeeded"
                )
            return self.gather(rows[rng.integers(len(rows), size=batch_size)], horizon)
        # A final observation is no step. There is at most one per step plus one, so redrawing ends quickly.
        rows = rng.integers(self._filled, size=batch_size)
        while len(final := np.flatnonzero(self._rows["remaining"][rows] == 0)):
            rows[final] = rng.integers(self._filled, size=len(final))
        return self.gather(rows, horizon)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything stored, as copies of the rows in use, for a checkpoint."""
        rows = {name: array[: self._filled].copy() for name, array in self._rows.items()}
        counters = {name: np.array(getattr(self, f"_{name}"), np.int64) for name in _COUNTERS}
        return {**rows, **counters, "capacity": np.array(self.capacity, np.int64)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the contents by those of `state_dict`; sampling goes on exactly as it would have.

        Raises:
            ValueError: the state is of a replay with other fields, capacity, dimensions or observation dtype.
        """
        expected = {*self._rows, *_COUNTERS, "capacity"}
        if expected != state.keys():
            raise ValueError(f"not the state of a replay: fields {sorted(expected ^ state.keys())} missing or unknown")
        if (capacity := int(state["capacity"])) != self.capacity:
            raise ValueError(f"the state is of a replay of capacity {capacity}, this one has {self.capacity}")
        filled = int(state["filled"])
        for name, array in self._rows.items():
            saved, shape = state[name], (filled, *array.shape[1:])
            if saved.shape != shape or saved.dtype != array.dtype:
                raise ValueError(
                    f"{name} of the state is {saved.dtype} of shape {saved.shape}, expected {array.dtype} of {shape}"
                )
        for name, array in self._rows.items():
            array[:filled] = state[name]
            array[filled:] = 0
        for name in _COUNTERS:
            setattr(self, f"_{name}", int(state[name]))
        self._imitable = None

    def _imitable_rows(self) -> np.ndarray:
        if self._imitable is None:
            self._imitable = np.flatnonzero(self._rows["return_to_go"] > 0)
        return self._imitable


_COUNTERS = ("cursor", "filled", "steps", "episodes_added", "successes_added")


def sample_mixed(
    offline: Replay,
    online: Replay,
    batch_size: int,
    horizon: int,
    rng: np.random.Generator,
    offline_share: float = 0.5,
    imitable: bool = False,
) -> Windows[np.ndarray]:
    """A batch of `offline_share` from demonstrations, first, and the rest from the policy's own episodes.

    Symmetric sampling of RLPD (arXiv 2302.02948, section 4.1) at the default share of one half. While `online` has
    nothing to draw, before the first own episode has ended (with `imitable`, earned a reward), all is offline.

    Raises:
        ValueError: `offline_share` is not in [0, 1], or a replay that is needed is empty.
    """
    if not 0 <= offline_share <= 1:
        raise ValueError(f"offline_share must be in [0, 1], got {offline_share}")
    available = online.imitable_steps if imitable else online.steps
    from_offline = round(batch_size * offline_share) if available else batch_size
    parts = [(offline, from_offline), (online, batch_size - from_offline)]
    return concatenate([replay.sample(count, horizon, rng, imitable) for replay, count in parts if count])


def _as_learned(observation: np.ndarray) -> np.ndarray:
    """Packed observations as they are, numbers as float32."""
    return observation if observation.dtype == np.uint8 else observation.astype(np.float32, copy=False)


def _cast(observation: np.ndarray, dtype: Any) -> np.ndarray:
    """`observation` as `dtype`; an error if it would not survive to 0.1 %, the precision of float16."""
    if dtype == observation.dtype:
        return observation
    if np.uint8 in (dtype, observation.dtype):
        raise ValueError(f"observations are {observation.dtype}, the replay's {dtype}: only packed ones are uint8")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = observation.astype(dtype)
    if not np.allclose(stored.astype(np.float32), observation, rtol=1e-3, atol=1e-6):
        raise ValueError(f"observations do not fit the replay's {dtype}: store them as float32")
    return stored
