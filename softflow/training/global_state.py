"""Global state of the process that environments share with training: random states, and settings of torch and numpy.

Environments are called in `environments_turn`. What they seed, draw or set there is theirs: they find it again at their
next turn, and training never sees it.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from softflow.errors import UserError


@dataclass
class GlobalState:
    """The random states and settings at one moment."""

    python_random: Any
    numpy_generator: Any
    """The generator itself is exchanged, because copying its state takes a hundred times as long."""
    numpy_errors: Any
    torch_random: torch.Tensor
    dtype: torch.dtype
    device: torch.device
    threads: int
    grad: bool

    @classmethod
    def current(cls) -> GlobalState:
        return cls(
            random.getstate(),
            get_bit_generator(),
            np.geterr(),
            torch.get_rng_state(),
            torch.get_default_dtype(),
            torch.empty(0).device,  # get_default_device fails in torch 2.8 once there has been another
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    def restore(self) -> None:
        random.setstate(self.python_random)
        set_bit_generator(self.numpy_generator)
        np.seterr(**self.numpy_errors)
        torch.set_rng_state(self.torch_random)
        torch.set_default_dtype(self.dtype)
        if torch.empty(0).device != self.device:  # None is the CPU, without the cost of a device that is set
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        if torch.get_num_threads() != self.threads:  # it may start threads anew
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.grad)


_theirs: GlobalState | None = None
_is_their_turn = False


def environments_state() -> GlobalState:
    """What the environments will find at their next turn. Before the first, it is a copy of training's."""
    global _theirs
    if _theirs is None:
        ours = GlobalState.current()
        _theirs = replace(ours, numpy_generator=deepcopy(ours.numpy_generator))
    return _theirs


@contextmanager
def environments_turn() -> Iterator[None]:
    """Inside, the global state is that of the environments. What they print goes to standard error.

    Raises:
        UserError: an environment has entered a mode of torch and not left it.
    """
    global _theirs, _is_their_turn
    if _is_their_turn:
        yield
        return
    theirs, ours = environments_state(), GlobalState.current()
    modes, filters = _modes(), list(warnings.filters)
    theirs.restore()
    _is_their_turn = True
    try:
        with redirect_stdout(sys.stderr):  # standard output is for the results of commands
            yield
    finally:
        _theirs, _is_their_turn = GlobalState.current(), False
        ours.restore()
        if warnings.filters != filters:  # warnings of training may have become errors
            warnings.filters[:] = filters  # type: ignore[index]
    if changed := [name for name, value in _modes().items() if value != modes[name]]:
        raise UserError(f"an environment entered torch's {' and '.join(changed)} and did not leave it: leave it there")


def _modes() -> dict[str, Any]:
    """The modes of torch that only who entered them can leave."""
    return {"inference_mode": torch.is_inference_mode_enabled(), "autocast": torch.is_autocast_enabled("cpu")}
