"""What a run leaves on disk: a policy that deploys, beside what continues the training.

policy.safetensors, policy.json    weights and observation statistics; how to build what holds them
training.pt                        networks, optimisers, random states and counters
replay.npz                         the policy's own episodes
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from softflow.data import Replay
from softflow.errors import UserError
from softflow.policies import BestOfN


def save_policy(folder: Path, policy: BestOfN) -> None:
    """Write the two files of a policy."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in policy.state_dict().items()}
    (folder / "policy.safetensors").write_bytes(serialize(weights))
    (folder / "policy.json").write_text(json.dumps(policy.describe(), indent=2) + "\n", encoding="utf-8")


def load_policy(folder: str | Path, device: str = "cpu") -> BestOfN:
    """Read a policy, ready to act.

    Raises:
        UserError: a file is missing or damaged, weights or statistics do not fit the description, or the flow's
            package is missing.
    """
    folder = Path(folder)
    for file in (folder / "policy.json", folder / "policy.safetensors"):
        if not file.is_file():
            raise UserError(f"{file}: no such file: not a whole checkpoint")
    try:
        policy = BestOfN.build(**json.loads((folder / "policy.json").read_text(encoding="utf-8")))
        policy.load_state_dict(load_file(folder / "policy.safetensors"))
        policy.policy.normalizer.require_statistics()
    except (TypeError, ValueError, ImportError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder}: the policy cannot be loaded: {' '.join(str(error).split())}") from error
    return policy.requires_grad_(False).eval().to(device)


def save_training(folder: Path, state: dict[str, Any], replay: Replay) -> None:
    """Write what continues the training: tensors, numbers and strings in `state`, and the replay."""
    whole = io.BytesIO()  # torch and safetensors make poor errors of a full disk, and python clear ones
    torch.save(state, whole)
    (folder / "training.pt").write_bytes(whole.getbuffer())
    arrays: dict[str, Any] = replay.state_dict()
    np.savez(folder / "replay.npz", **arrays)


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
        UserError: a file is missing or damaged.
    """
    try:
        state = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
        with np.load(folder / "replay.npz", allow_pickle=False) as arrays:
            replay.load_state_dict(dict(arrays))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file: not a checkpoint that can be resumed") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: damaged, or not of this run ({type(error).__name__}): cannot be resumed") from error
    return state
