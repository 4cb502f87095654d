"""The random states of this process: python's, numpy's and torch's, which libraries draw from without being asked."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed all of them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: str = "cpu") -> dict[str, Any]:
    """All of them, and that of `device`, as strings and tensors."""
    name, key, *rest = np.random.get_state()
    state = {
        "python": json.dumps(random.getstate()),
        "numpy": json.dumps([name, np.asarray(key).tolist(), *rest]),
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: str = "cpu") -> None:
    """Return to what `random_state` gave. It may be of another device: that of `device` then stays as it is."""
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(json.loads(state["numpy"])))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def random_state_kept(device: str = "cpu") -> Iterator[None]:
    """Whatever is drawn inside, outside it was not."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
