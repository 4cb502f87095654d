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

from softflow.training.global_state import environments_state, environments_turn


def seed_all(seed: int) -> None:
    """Seed both sets."""
    environments_state().numpy_generator = np.random.MT19937()  # the kind that numpy.random.seed takes
    with environments_turn():
        _seed(seed)
    _seed(seed)


def random_state(device: str = "cpu") -> dict[str, Any]:
    """Both sets, and the state of `device`, as strings and tensors."""
    theirs = environments_state()
    numpys = _plain(theirs.numpy_generator.state)  # of any kind: an environment may have put another in its place
    state = {
        **_as_plain(random.getstate(), np.random.get_state(), torch.get_rng_state()),
        "environments": {
            "python": json.dumps(theirs.python_random),
            "numpy": json.dumps(numpys),
            "torch": theirs.torch_random,
        },
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: str = "cpu") -> None:
    """Return to what `random_state` gave. It may be of another device: that of `device` then stays as it is."""
    pythons, numpys, torchs = _read(state)
    random.setstate(pythons)
    np.random.set_state(numpys)
    torch.set_rng_state(torchs)
    if "environments" in state:  # absent in older checkpoints
        theirs = environments_state()
        saved = state["environments"]
        theirs.python_random, theirs.torch_random = _read_python(saved["python"]), saved["torch"]
        theirs.numpy_generator = _read_generator(saved["numpy"])
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def random_state_kept(device: str = "cpu") -> Iterator[None]:
    """Keep what is drawn inside from changing what is drawn afterwards."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # it takes no more
    torch.manual_seed(seed)


def _as_plain(python: Any, numpys: Any, torchs: torch.Tensor) -> dict[str, Any]:
    name, key, *rest = numpys
    return {
        "python": json.dumps(python),
        "numpy": json.dumps([name, np.asarray(key).tolist(), *rest]),
        "torch": torchs,
    }


def _read(state: Mapping[str, Any]) -> tuple[Any, Any, torch.Tensor]:
    """The inverse of `_as_plain`."""
    return _read_python(state["python"]), tuple(json.loads(state["numpy"])), state["torch"]


def _read_python(text: str) -> tuple[Any, ...]:
    version, internal, gauss = json.loads(text)
    return version, tuple(internal), gauss


def _read_generator(text: str) -> np.random.BitGenerator:
    """Raises ValueError unless it is the state of one of numpy's own."""
    state = json.loads(text)
    kinds = {kind.__name__: kind for kind in np.random.BitGenerator.__subclasses__()}
    if state["bit_generator"] not in kinds:
        raise ValueError(f"numpy has no bit generator {state['bit_generator']!r}")
    generator = kinds[state["bit_generator"]]()
    generator.state = _with_arrays(state)
    return generator


def _plain(state: Any) -> Any:
    """Arrays of a generator's state as lists, and numpy's numbers as Python's."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _with_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _with_arrays(value) for name, value in state.items()}
    return np.array(state, np.uint64) if isinstance(state, list) else state
