"""A policy or guard on disk, as data alone: NAME.safetensors, its weights, beside NAME.json, what builds it again.

The .json is a mapping of plain values with two more: `format_version`, and `sha256` of the weights and of the rest of
the mapping, because neither format notices by itself that a bit has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from softflow.errors import require_version
from softflow.files import FREE_MEMORY, read_settings, require_size, written_whole

FORMAT_VERSION = 1
MEMORY_PER_BYTE = 4
"""Bytes of memory for each byte of weights that a module may ask for when it is built."""
SMALLEST = 2**14
"""Bytes that a tensor counts at least: a module has many objects besides."""
LARGEST_NUMBER = 16
"""Bytes of a number in the widest type."""

Module = TypeVar("Module", bound=nn.Module)


def write_module(folder: Path, name: str, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Write `name`.safetensors and `name`.json; `description` is a mapping of what JSON has.

    Raises:
        WriteError: one of them cannot be written.
    """
    weights = save({key: tensor.contiguous().cpu() for key, tensor in module.state_dict().items()})
    described = {"format_version": FORMAT_VERSION, "sha256": checksum(weights, description), **description}
    with written_whole(folder / f"{name}.safetensors") as file:
        file.write_bytes(weights)
    with written_whole(folder / f"{name}.json") as file:
        file.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read_module(folder: Path, name: str, build: Callable[[dict[str, Any]], Module]) -> Module:
    """Read the two files, on the CPU. Nothing in them is executed.

    Files without a version, of softflow before there was one, are read without a checksum.

    Args:
        folder: where they are.
        name: of the files, without suffix.
        build: makes the module, with any weights, of the description that `write_module` was given. It is stopped if
            it asks for much more memory than the file of the weights takes.

    Raises:
        SizeError: the description is too long, or the module that it is of too large.
        ValueError, SafetensorError, OSError: a file is missing, damaged, or of another version.
        RuntimeError: the weights are of another module.
    """
    description = json.loads(read_settings(folder / f"{name}.json"))
    if not isinstance(description, dict):
        raise ValueError(f"{name}.json holds {type(description).__name__}, not keys and values")
    weights = (folder / f"{name}.safetensors").read_bytes()
    if "format_version" in description or "sha256" in description:
        require_version(f"format_version of {name}.json", description.pop("format_version", None), FORMAT_VERSION)
        expected = description.pop("sha256", None)
        if expected != checksum(weights, description):
            raise ValueError(f"{name}.safetensors or {name}.json has changed since it was written: copy both again")
    state = load(weights)
    with _MemoryLimit(f"what {name}.json describes", len(weights)):
        module = build(description)
    module.load_state_dict(state)
    return module


def memory_limit(what: str, weights: Path) -> AbstractContextManager[Any]:
    """Inside it, `SizeError` is raised before torch takes much more memory for `what` than a file of weights explains.

    A file that is missing explains nothing; whoever reads it later says so.
    """
    return _MemoryLimit(what, weights.stat().st_size if weights.is_file() else 0)


def checksum(weights: bytes, description: Mapping[str, Any]) -> str:
    """SHA-256 of both, of the description as it is read and not as it is laid out."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()


class _MemoryLimit(TorchDispatchMode):
    """Raises `SizeError` before torch takes much more memory than a file of weights explains: in all for tensors that
    are made of sizes alone, as parameters are, and at once for any that is computed from others.

    Args:
        what: is built, for the error.
        size: of the file, in bytes.
    """

    def __init__(self, what: str, size: int) -> None:
        super().__init__()
        self.what, self.limit, self.taken = what, FREE_MEMORY + MEMORY_PER_BYTE * size, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second, to switch it off

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.is_mutable:  # else it works in place
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any) -> None:
        arguments = tree_leaves((args, kwargs))
        size = _size_at_most(arguments)
        if any(isinstance(argument, Tensor) for argument in arguments):
            if size > self.limit:
                require_size(self.what, _size(func, args, kwargs), self.limit)
            return
        is_range = any(isinstance(argument, float) for argument in arguments)
        if is_range or size > SMALLEST:
            size = _size(func, args, {**kwargs, "device": "meta"})
        self.taken += max(size, SMALLEST)
        require_size(self.what, self.taken, self.limit)


def _size_at_most(arguments: Sequence[Any]) -> int:
    """Bytes of what a function can make of its arguments, unless it makes a range of floats."""
    lengths = (argument.numel() if isinstance(argument, Tensor) else argument for argument in arguments)
    return LARGEST_NUMBER * math.prod(abs(length) for length in lengths if isinstance(length, int) and length)


def _size(func: Any, args: Any, kwargs: Any) -> int:
    """Bytes of what a function makes of its arguments. The meta device says so without taking them."""
    try:
        made = func(*tree_map_only(Tensor, _without_content, args), **tree_map_only(Tensor, _without_content, kwargs))
    except (NotImplementedError, RuntimeError, TypeError):
        return 0  # it depends on the numbers, of which there are no more than were counted
    return sum(tensor.untyped_storage().nbytes() for tensor in tree_leaves(made) if isinstance(tensor, Tensor))


def _without_content(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
