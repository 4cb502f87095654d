"""Separation of the global state of training and environments: random states, and settings of torch and numpy.

Environments are called inside `environments_turn`. Their random states and settings are saved at its end and restored
at the next turn, so that environments in this process do not affect training.
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
    """The generator itself is swapped, because copying its state takes a hundred times as long."""
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
            torch.empty(0).device,  # get_default_device fails in torch 2.8 once another device has been set
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    def restore(self) -> None:
        random.setstate(self.python_random)
        set_bit_generator(self.numpy_generator)
        np.seterr(**self.numpy_errors)
        torch.set_rng_state(self.torch_random)
        torch.set_default_dtype(self.dtype)
        if torch.empty(0).device != self.device:  # None means the CPU, without the overhead of an explicit device
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        if torch.get_num_threads() != self.threads:  # setting it may restart threads
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.grad)


_theirs: GlobalState | None = None
_is_their_turn = False


def environments_state() -> GlobalState:
    """Return the state that environments get at their next turn. Before the first turn, it is a copy of training's."""
    global _theirs
    if _theirs is None:
        ours = GlobalState.current()
        _theirs = replace(ours, numpy_generator=deepcopy(ours.numpy_generator))
    return _theirs


@contextmanager
def environments_turn() -> Iterator[None]:
    """Switch to the global state of the environments inside the block. Their output goes to standard error.

    Raises:
        UserError: An environment entered a mode of torch and did not leave it.
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
        names = " and ".join(changed)
        raise UserError(f"an environment entered torch's {names} and did not leave it: leave it in the environment")


def _modes() -> dict[str, Any]:
    """Return the modes of torch that only the code that entered them can leave."""
    return {"inference_mode": torch.is_inference_mode_enabled(), "autocast": torch.is_autocast_enabled("cpu")}
