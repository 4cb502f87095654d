"""A policy or guard on disk, as data alone: NAME.safetensors, its weights, beside NAME.json, what builds it again.

The .json is a mapping of plain values with two more: `format_version`, and `sha256` of the weights and of the rest of
the mapping, because neither format notices by itself that a bit has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load, save
from torch import Tensor, nn

from softflow.errors import require_version

FORMAT_VERSION = 1


class SavedModule(NamedTuple):
    """What `read_module` finds."""

    description: dict[str, Any]
    """Plain values, as they were given to `write_module`."""
    weights: dict[str, Tensor]
    """For `load_state_dict`, on the CPU."""


def write_module(folder: Path, name: str, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Write `name`.safetensors and `name`.json; `description` is a mapping of what JSON has."""
    weights = save({key: tensor.contiguous().cpu() for key, tensor in module.state_dict().items()})
    (folder / f"{name}.safetensors").write_bytes(weights)
    described = {"format_version": FORMAT_VERSION, "sha256": checksum(weights, description), **description}
    (folder / f"{name}.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read_module(folder: Path, name: str) -> SavedModule:
    """Read the two files. Nothing in them is executed, and nothing is built of them.

    Files without a version, of softflow before there was one, are read without a checksum.

    Raises:
        ValueError, SafetensorError, OSError: a file is missing, damaged, or of another version.
    """
    description = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if not isinstance(description, dict):
        raise ValueError(f"{name}.json holds {type(description).__name__}, not keys and values")
    weights = (folder / f"{name}.safetensors").read_bytes()
    if "format_version" in description or "sha256" in description:
        require_version(f"format_version of {name}.json", description.pop("format_version", None), FORMAT_VERSION)
        expected = description.pop("sha256", None)
        if expected != checksum(weights, description):
            raise ValueError(f"{name}.safetensors or {name}.json has changed since it was written: copy both again")
    return SavedModule(description, load(weights))


def checksum(weights: bytes, description: Mapping[str, Any]) -> str:
    """SHA-256 of both, of the description as it is read and not as it is laid out."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()
