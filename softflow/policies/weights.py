"""Modules on disk, as data only: the weights in NAME.safetensors, and the description to rebuild from in NAME.json.

The .json file is a mapping of plain values. It also contains `format_version`, and the `sha256` of the weights and of
the rest of the mapping, because neither format detects a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
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
"""Bytes of memory that building a module may allocate per byte of weights."""
SMALLEST = 2**14
"""Minimum size counted for a tensor, in bytes, to account for the other objects of a module."""
LARGEST_NUMBER = 16
"""Bytes of a number of the widest dtype."""

Module = TypeVar("Module", bound=nn.Module)
_is_limited = ContextVar("_is_limited", default=True)


def write_module(folder: Path, name: str, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Write `name`.safetensors and `name`.json. The values of `description` must be valid in JSON.

    Raises:
        WriteError: A file cannot be written.
    """
    weights = save({key: tensor.contiguous().cpu() for key, tensor in module.state_dict().items()})
    described = {"format_version": FORMAT_VERSION, "sha256": checksum(weights, description), **description}
    with written_whole(folder / f"{name}.safetensors") as file:
        file.write_bytes(weights)
    with written_whole(folder / f"{name}.json") as file:
        file.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read_module(folder: Path, name: str, build: Callable[[dict[str, Any]], Module]) -> Module:
    """Read a module from its two files, on the CPU. Nothing in them is executed.

    Files of early softflow releases have no version and no checksum.

    Args:
        folder: The folder of the files.
        name: The name of the files, without suffix.
        build: Makes the module, with arbitrary weights, from the description passed to `write_module`. It is stopped if
            it allocates much more memory than the weights take.

    Raises:
        SizeError: The description is too long, or the described module is too large.
        ValueError, SafetensorError, OSError: A file is missing, damaged or of another version.
        RuntimeError: The weights belong to another module.
    """
    description = json.loads(read_settings(folder / f"{name}.json"))
    if not isinstance(description, dict):
        raise ValueError(f"{name}.json: expected a mapping, got {type(description).__name__}")
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
    """Return a context manager that raises `SizeError` before torch allocates much more memory than weights take.

    Args:
        what: The object that is built, for error messages.
        weights: The file of weights. A missing file counts as empty; reading it raises an error later.
    """
    return _MemoryLimit(what, weights.stat().st_size if weights.is_file() else 0)


@contextmanager
def without_memory_limit() -> Iterator[None]:
    """Lift the memory limits around, while the user's own code builds what is in no file of ours."""
    token = _is_limited.set(False)
    try:
        yield
    finally:
        _is_limited.reset(token)


def checksum(weights: bytes, description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the weights and of the description, independent of its layout in the file."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()


class _MemoryLimit(TorchDispatchMode):
    """Raises `SizeError` before torch allocates much more memory than a file of weights takes.

    The limit applies to the total of all tensors made from sizes alone, such as parameters, and to every single tensor
    computed from others.

    Args:
        what: The object that is built, for error messages.
        size: Size of the file, in bytes.
    """

    def __init__(self, what: str, size: int) -> None:
        super().__init__()
        self.what, self.limit, self.taken = what, FREE_MEMORY + MEMORY_PER_BYTE * size, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler to disable it, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_limited.get() and not func._schema.is_mutable:  # in-place functions allocate nothing
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
    """Return an upper bound on the bytes of a function's result, unless it makes a range of floats."""
    lengths = (argument.numel() if isinstance(argument, Tensor) else argument for argument in arguments)
    return LARGEST_NUMBER * math.prod(abs(length) for length in lengths if isinstance(length, int) and length)


def _size(func: Any, args: Any, kwargs: Any) -> int:
    """Return the bytes of a function's result, computed on the meta device without allocating them."""
    try:
        made = func(*tree_map_only(Tensor, _without_content, args), **tree_map_only(Tensor, _without_content, kwargs))
    except (NotImplementedError, RuntimeError, TypeError):
        return 0  # the size depends on the data and is at most that of the inputs, which are already counted
    return sum(tensor.untyped_storage().nbytes() for tensor in tree_leaves(made) if isinstance(tensor, Tensor))


def _without_content(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
