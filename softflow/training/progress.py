"""Progress of a stage: a live bar on a terminal, or a line from time to time if the output is piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TextIO, cast

from tqdm import tqdm

from softflow.console import Console


class StageProgress:
    """Shows steps, figures such as success and loss, and the time left. Use it as a context manager.

        with StageProgress("online", total=25_000) as progress:
            progress.update(8, success=0.62, loss=0.021)

    On a terminal this is a bar. Elsewhere a line is printed every `interval` seconds, after every tenth of the stage,
    and at the end:

        online 12,500/25,000 (50 %), success 0.62, loss 0.021, 03:10 gone, 03:12 left

    Args:
        stage: The name of the stage.
        total: The number of steps in the stage.
        initial: The number of steps done before a run was resumed.
        stream: The stream to write to, standard error by default. Write errors are ignored.
        interval: The maximum time between two lines in seconds.
        only_if_slow: Whether to show nothing during the first interval, and no line for every tenth or at the end.
        clock: A monotonic clock that returns seconds.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        initial: int = 0,
        stream: TextIO | None = None,
        interval: float = 10.0,
        only_if_slow: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.done = stage, total, initial
        self._initial, self._interval, self._only_if_slow, self._clock = initial, interval, only_if_slow, clock
        self._stream = cast(TextIO, Console(sys.stderr if stream is None else stream))
        self._figures: dict[str, float] = {}
        self._start = self._last_time = clock()
        self._last_done = -1
        self._last_tenth = self._tenth()
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=stage,
                file=self._stream,
                dynamic_ncols=True,
                leave=not only_if_slow,
                delay=interval if only_if_slow else 0,
            )

    def update(self, steps: int, **figures: float) -> None:
        """Add `steps` to the count, and replace figures of the same name."""
        self.done += steps
        self._figures |= figures
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in self._figures.items()}, refresh=False)
            self._bar.update(steps)
            return
        is_tenth = self._tenth() > self._last_tenth and not self._only_if_slow
        if is_tenth or self._clock() - self._last_time >= self._interval:
            self._line()

    def close(self) -> None:
        """Close the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._last_done != self.done and not self._only_if_slow:
            self._line()

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tenth(self) -> int:
        return 10 * self.done // max(self.total, 1)

    def _line(self) -> None:
        self._last_time, self._last_done, self._last_tenth = self._clock(), self.done, self._tenth()
        elapsed, counted = self._last_time - self._start, self.done - self._initial
        parts = [f"{self.stage} {self.done:,}/{self.total:,} ({min(100, 100 * self.done // max(self.total, 1))} %)"]
        parts += [f"{name} {value:.3g}" for name, value in self._figures.items()]
        parts.append(f"{tqdm.format_interval(elapsed)} gone")
        if 0 < counted and self.done < self.total:
            parts.append(f"{tqdm.format_interval(elapsed * (self.total - self.done) / counted)} left")
        print(", ".join(parts), file=self._stream, flush=True)


def portions(steps: int, updates: int) -> Iterator[int]:
    """Divide steps among the updates that follow them, so that the count of steps moves while these are made."""
    for i in range(updates):
        yield steps * (i + 1) // updates - steps * i // updates


def shown(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars that the progress bar shows, by their short names."""
    names = {"success": "rollout/success_rate", "actor": "train/actor_loss", "critic": "train/critic_loss"}
    return {shown: scalars[name] for shown, name in names.items() if name in scalars}
