"""What a run leaves on disk: a policy that deploys, beside what continues the training.

policy.safetensors, policy.json    weights and observation statistics; how to build what holds them
training.pt                        networks, optimisers, random states and counters
replay.npz                         the policy's own episodes, or where in their files they end
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softflow.data import Replay
from softflow.data.archive import check_zip
from softflow.errors import UserError, one_line, require_version
from softflow.files import FREE_MEMORY, SizeError, require_size
from softflow.policies import BestOfN
from softflow.policies.weights import read_module, write_module

TRAINING_VERSION = 2
NUMBER_SIZE = 4
"""Bytes of a number of a chunk."""


def save_policy(folder: Path, policy: BestOfN) -> None:
    """Write the two files of a policy, with its task if that is known."""
    write_module(folder, "policy", policy, policy.describe())


def load_policy(folder: str | Path, device: str = "cpu") -> BestOfN:
    """Read a policy, ready to act. Nothing in its files is executed.

    Raises:
        UserError: A file is missing or damaged, weights, statistics or task do not fit the description, or the flow's
            package is missing.
    """
    folder = Path(folder)
    for file in (folder / "policy.json", folder / "policy.safetensors"):
        if not file.is_file():
            raise UserError(f"{file}: no such file: not a whole checkpoint")
    try:
        policy = read_module(folder, "policy", lambda description: BestOfN.build(**description))
        policy.policy.normalizer.require_statistics()
        numbers = policy.candidates * policy.policy.horizon * policy.policy.action_dim
        require_size("what is drawn for one observation", NUMBER_SIZE * numbers, FREE_MEMORY)
    except Exception as error:  # a description may ask for anything
        raise UserError(f"{folder}: the policy cannot be loaded: {one_line(error)}") from error
    return policy.requires_grad_(False).eval().to(device)


def save_training(folder: Path, state: dict[str, Any], replay: Replay) -> None:
    """Write what continues the training: tensors, numbers and strings in `state`, and the replay."""
    whole = io.BytesIO()  # torch makes a poor error of a full disk, and python a clear one
    torch.save({"format_version": TRAINING_VERSION, "state": state}, whole)
    # `getvalue` copies no more than `getbuffer`, whose view Python 3.12.1 crashes on as it is collected after an error.
    (folder / "training.pt").write_bytes(whole.getvalue())
    replay.save(folder / "replay.npz")


def as_tensors(state: Any) -> Any:
    """Arrays in nested dicts and lists as tensors, those of strings as lists: what `save_training` takes."""
    if isinstance(state, dict):
        return {name: as_tensors(value) for name, value in state.items()}
    if isinstance(state, list):
        return [as_tensors(value) for value in state]
    if isinstance(state, np.ndarray | np.generic):
        return state.tolist() if state.dtype.kind == "U" else torch.from_numpy(np.array(state))
    return state


def as_arrays(state: Any) -> Any:
    """The inverse of `as_tensors`, but for strings."""
    if isinstance(state, dict):
        return {name: as_arrays(value) for name, value in state.items()}
    if isinstance(state, list):
        return [as_arrays(value) for value in state]
    return state.numpy() if isinstance(state, torch.Tensor) else state


def load_training(folder: Path, replay: Replay) -> dict[str, Any]:
    """Read the state of a training and fill the replay. Nothing is unpickled but tensors and plain values.

    Raises:
        UserError: a file is missing, damaged, of another version, or of another run's replay.
    """
    file = folder / "training.pt"
    try:
        state = _read_state(file)
        file = folder / "replay.npz"
        replay.load(file)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{file}: cannot be resumed: {one_line(error)}") from error
    return state


def _read_state(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError("no such file: not a whole checkpoint")
    try:
        check_zip(file)  # torch does not look at the checksums that it writes
        saved = torch.load(file, weights_only=True, map_location="cpu")
    except SizeError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes zipfile and torch stumble over
        raise ValueError(f"damaged, or not a training's state ({_reason(error)})") from error
    if not isinstance(saved, dict) or "format_version" not in saved:
        raise ValueError("without a format version: an older softflow has written it, use that one, or start a new run")
    require_version("format_version", saved["format_version"], TRAINING_VERSION)
    return saved["state"]


def _reason(error: Exception) -> str:
    """Without the advice, which torch gives on many lines, to unpickle it nevertheless."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:120]
