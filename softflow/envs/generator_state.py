"""The state of a random generator as an array that needs no pickling."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_random_state(rng: np.random.Generator) -> NDArray[Any]:
    """Return the generator's state as an array () of one string."""
    return np.array(json.dumps(rng.bit_generator.state))


def load_random_state(rng: np.random.Generator, state: NDArray[Any]) -> None:
    """Restore in ``rng`` a state returned by `save_random_state`."""
    rng.bit_generator.state = json.loads(str(state))
