"""The random states of this process: python's, numpy's and torch's, which libraries draw from without being asked.

There are two sets of them, training's and that of the environments (`softflow.training.global_state`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from softflow.training.global_state import environments_turn


def seed_all(seed: int) -> None:
    """Seed both sets."""
    _seed(seed)
    with environments_turn():
        _seed(seed)


def random_state(device: str = "cpu") -> dict[str, Any]:
    """Both sets, and the state of `device`, as strings and tensors."""
    state = _current()
    with environments_turn():
        state["environments"] = _current()
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: str = "cpu") -> None:
    """Return to what `random_state` gave."""
    _set(state)
    if "environments" in state:  # absent in older checkpoints
        with environments_turn():
            _set(state["environments"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def random_state_kept(device: str = "cpu") -> Iterator[None]:
    """Whatever is drawn inside, outside it was not."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _current() -> dict[str, Any]:
    name, key, *rest = np.random.get_state()
    return {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([name, np.asarray(key).tolist(), *rest]),
        "torch": torch.get_rng_state(),
    }


def _set(state: Mapping[str, Any]) -> None:
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(json.loads(state["numpy"])))
    torch.set_rng_state(state["torch"])
