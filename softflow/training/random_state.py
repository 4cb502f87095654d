"""The global random states of Python, numpy and torch, from which libraries draw implicitly.

There are two sets, one of training and one of the environments (`softflow.training.global_state`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from softflow.training.global_state import environments_state, environments_turn


def seed_all(seed: int) -> None:
    """Seed both sets of random states."""
    environments_state().numpy_generator = np.random.MT19937()  # the kind that numpy.random.seed takes
    with environments_turn():
        _seed(seed)
    _seed(seed)


def random_state(device: str = "cpu") -> dict[str, Any]:
    """Return both sets of random states, and that of `device`, as strings and tensors."""
    theirs = environments_state()
    state = {
        "python": _text(random.getstate()),
        "numpy": _text(np.random.get_state()),
        "torch": torch.get_rng_state(),
        "environments": {
            "python": _text(theirs.python_random),
            "numpy": _text(theirs.numpy_generator.state),  # of any kind: an environment may have replaced it
            "torch": theirs.torch_random,
        },
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: str = "cpu") -> None:
    """Restore the random states that `random_state` returned.

    A state from a CPU does not include that of a GPU, which then stays as it is.
    """
    random.setstate(_read_python(state["python"]))
    np.random.set_state(tuple(json.loads(state["numpy"])))
    torch.set_rng_state(state["torch"])
    if "environments" in state:  # absent in older checkpoints
        theirs, saved = environments_state(), state["environments"]
        theirs.python_random, theirs.torch_random = _read_python(saved["python"]), saved["torch"]
        theirs.numpy_generator = _read_generator(saved["numpy"])
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def random_state_kept(device: str = "cpu") -> Iterator[None]:
    """Restore the random states at the end of the block, so that draws inside do not affect later draws."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy accepts no larger seeds
    torch.manual_seed(seed)


def _text(state: Any) -> str:
    return json.dumps(state, default=lambda array: array.tolist())


def _read_python(text: str) -> tuple[Any, ...]:
    version, internal, gauss = json.loads(text)
    return version, tuple(internal), gauss


def _read_generator(text: str) -> np.random.BitGenerator:
    """Return the bit generator with a state. Raise `ValueError` if numpy has no generator of its kind."""
    state = json.loads(text, object_hook=_with_arrays)
    kinds = {kind.__name__: kind for kind in np.random.BitGenerator.__subclasses__()}
    if state["bit_generator"] not in kinds:
        raise ValueError(f"numpy has no bit generator {state['bit_generator']!r}")
    generator = kinds[state["bit_generator"]]()
    generator.state = state
    return generator


def _with_arrays(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, np.uint64) if isinstance(value, list) else value for name, value in state.items()}
