"""Global state of the process that environments share with training: random states, and settings of torch and numpy.

Environments are called in `environments_turn`. What they seed, draw or set there is theirs: they find it again at their
next turn, and training never sees it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class _GlobalState:
    python_random: Any
    numpy_random: Any
    numpy_errors: Any
    torch_random: torch.Tensor
    dtype: torch.dtype
    threads: int
    grad: bool

    @classmethod
    def current(cls) -> _GlobalState:
        return cls(
            random.getstate(),
            np.random.get_state(),
            np.geterr(),
            torch.get_rng_state(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    def restore(self) -> None:
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)
        np.seterr(**self.numpy_errors)
        torch.set_rng_state(self.torch_random)
        torch.set_default_dtype(self.dtype)
        if torch.get_num_threads() != self.threads:  # it may start threads anew
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.grad)


_theirs: _GlobalState | None = None
_is_their_turn = False


@contextmanager
def environments_turn() -> Iterator[None]:
    """Inside, the global state is that of the environments; before their first turn, it is a copy of training's."""
    global _theirs, _is_their_turn
    if _is_their_turn:
        yield
        return
    ours = _GlobalState.current()
    if _theirs is not None:
        _theirs.restore()
    _is_their_turn = True
    try:
        yield
    finally:
        _theirs, _is_their_turn = _GlobalState.current(), False
        ours.restore()
