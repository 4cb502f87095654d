"""Checkpoints, which contain a policy to deploy and the state from which training continues.

policy.safetensors, policy.json    weights and statistics; the description to build the policy from
training.pt                        networks, optimisers, random states and counters
replay.npz                         the policy's own episodes, or their number of rows if they are kept in other files
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
"""Bytes per number in a chunk."""


def save_policy(folder: Path, policy: BestOfN) -> None:
    """Write the two files of a policy, including its task if it is known."""
    write_module(folder, "policy", policy, policy.describe())


def load_policy(folder: str | Path, device: str = "cpu") -> BestOfN:
    """Read a policy that is ready to act. Nothing in its files is executed.

    Raises:
        UserError: A file is missing or damaged, the weights, statistics or task do not fit the description, or the
            package of the flow is not installed.
    """
    folder = Path(folder)
    for file in (folder / "policy.json", folder / "policy.safetensors"):
        if not file.is_file():
            raise UserError(f"{file}: no such file: the checkpoint is incomplete")
    try:
        policy = read_module(folder, "policy", lambda description: BestOfN.build(**description))
        policy.policy.require_statistics()
        numbers = policy.candidates * policy.policy.horizon * policy.policy.action_dim
        require_size("what is drawn for one observation", NUMBER_SIZE * numbers, FREE_MEMORY)
    except Exception as error:  # an invalid description may raise errors of any type
        raise UserError(f"{folder}: the policy cannot be loaded: {one_line(error)}") from error
    return policy.requires_grad_(False).eval().to(device)


def save_training(folder: Path, state: dict[str, Any], replay: Replay) -> None:
    """Write the state of training (tensors, numbers and strings in `state`) and the replay."""
    whole = io.BytesIO()  # if the disk is full, Python raises a clearer error than torch
    torch.save({"format_version": TRAINING_VERSION, "state": state}, whole)
    # `getvalue` copies no more than `getbuffer`, whose view crashes Python 3.12.1 when it is collected after an error.
    (folder / "training.pt").write_bytes(whole.getvalue())
    replay.save(folder / "replay.npz")


def as_tensors(state: Any) -> Any:
    """Convert arrays in nested dicts and lists to tensors (arrays of strings to lists), as `save_training` needs."""
    if isinstance(state, dict):
        return {name: as_tensors(value) for name, value in state.items()}
    if isinstance(state, list):
        return [as_tensors(value) for value in state]
    if isinstance(state, np.ndarray | np.generic):
        return state.tolist() if state.dtype.kind == "U" else torch.from_numpy(np.array(state))
    return state


def as_arrays(state: Any) -> Any:
    """Convert tensors in nested dicts and lists to arrays: the inverse of `as_tensors`, except for strings."""
    if isinstance(state, dict):
        return {name: as_arrays(value) for name, value in state.items()}
    if isinstance(state, list):
        return [as_arrays(value) for value in state]
    return state.numpy() if isinstance(state, torch.Tensor) else state


def load_training(folder: Path, replay: Replay) -> dict[str, Any]:
    """Read the state of training and fill the replay. Only tensors and plain values are unpickled.

    Raises:
        UserError: A file is missing, damaged, of another version, or belongs to another run's replay.
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
        raise ValueError("no such file: the checkpoint is incomplete")
    try:
        check_zip(file)  # torch does not verify the checksums that it writes
        saved = torch.load(file, weights_only=True, map_location="cpu")
    except SizeError:
        raise
    except Exception as error:  # zipfile and torch raise errors of many types for damaged or hostile files
        raise ValueError(f"damaged, or not the state of a training run ({_reason(error)})") from error
    if not isinstance(saved, dict) or "format_version" not in saved:
        raise ValueError("without a format version: an older softflow has written it, use that one, or start a new run")
    require_version("format_version", saved["format_version"], TRAINING_VERSION)
    return saved["state"]


def _reason(error: Exception) -> str:
    """Return the first line of an error. On later lines, torch advises to unpickle the file anyway."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:120]
