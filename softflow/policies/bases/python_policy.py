"""A policy written in Python: a class, such as a torch module, or a function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softflow.errors import UserError, did_you_mean, one_line
from softflow.named_classes import names_in
from softflow.policies.bases.model import BaseModel
from softflow.policies.weights import without_memory_limit


class PythonPolicy(BaseModel):
    """A function, or an object of a class, that is called with tensors:

        policy(observation) -> chunk  or  policy(observation, noise) -> chunk

    `observation` maps the names of the task's parts to tensors (B, *shape). A policy that takes noise has an attribute
    `noise_shape`. One with a method `features(observation)`, which returns a tensor (B, F), has an attribute
    `feature_count`, F. A torch module is frozen and stays in `eval()`.

    Args:
        name: `module:name`.
        options: Arguments of the constructor of a class.

    Raises:
        UserError: There is no such policy, it cannot be constructed, its arguments and its `noise_shape` disagree, or
            it has one of `features` and `feature_count` alone.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        found = names_in("base", name)
        attribute = name.partition(":")[2]
        if attribute not in found:
            hint = did_you_mean(attribute, [key for key in found if not key.startswith("_")])
            raise UserError(f"base {name!r}: its module has no {attribute!r}: {hint}")
        self._file = _source_of(name, found[attribute])
        self._policy = _construct(name, found[attribute], options)
        if isinstance(self._policy, nn.Module):
            self._policy.requires_grad_(False).eval()
        self.noise_shape = _noise_shape(name, self._policy)
        self.feature_count = _feature_count(name, self._policy)

    def __call__(self, observation: Mapping[str, NDArray[Any]], noise: Tensor | None, device: str) -> Any:
        tensors = self._tensors(observation, device)
        return self._policy(tensors) if noise is None else self._policy(tensors, noise)

    def features(self, observation: Mapping[str, NDArray[Any]], device: str) -> Any:
        return self._policy.features(self._tensors(observation, device))  # type: ignore[attr-defined]

    def _tensors(self, observation: Mapping[str, NDArray[Any]], device: str) -> dict[str, Tensor]:
        """Return the observation as tensors on the device, where the policy is then as well."""
        if isinstance(self._policy, nn.Module):
            self._policy.to(device)
        return {name: torch.as_tensor(array.copy(), device=device) for name, array in observation.items()}

    def sha256(self) -> bytes:
        """Return the digest of the source file and, of a torch module, of the names and bits of its weights."""
        digest = hashlib.sha256(self._file.read_bytes())
        if isinstance(self._policy, nn.Module):
            for name, value in self._policy.state_dict().items():
                digest.update(f"{name} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}".encode())
                if isinstance(value, Tensor):
                    digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                else:
                    digest.update(repr(value).encode())
        return digest.digest()


def _source_of(name: str, found: Any) -> Path:
    try:
        return Path(inspect.getfile(found))
    except TypeError as error:
        raise UserError(f"base {name!r} is {type(found).__name__}: name a class or a function") from error


def _construct(name: str, found: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
    made = found
    if isinstance(found, type):
        try:
            with without_memory_limit():
                made = found(**options)
        except Exception as error:  # somebody else's code
            raise UserError(f"base {name!r} cannot be constructed: {one_line(error)}") from error
    elif options:
        raise UserError(f"base {name!r} is a function, which takes no base_options: name a class")
    if not callable(made):
        raise UserError(f"base {name!r}: its objects cannot be called: define __call__, or forward in a torch module")
    return made


def _noise_shape(name: str, policy: Callable[..., Any]) -> tuple[int, ...] | None:
    """Return the noise shape that a policy states. Raise `UserError` if its arguments are not according to it."""
    shape = getattr(policy, "noise_shape", None)
    is_shape = isinstance(shape, tuple) and shape and all(isinstance(size, int) and size > 0 for size in shape)
    if not (shape is None or is_shape):
        raise UserError(f"base {name!r}: noise_shape: expected a tuple of positive integers, got {shape!r}")
    called = policy.forward if isinstance(policy, nn.Module) else policy
    try:
        inspect.signature(called).bind("observation", *(() if shape is None else ("noise",)))
    except TypeError as error:
        takes = "no noise_shape, so it must take an observation alone" if shape is None else f"noise_shape {shape}"
        raise UserError(
            f"base {name!r} has {takes}, but its arguments are {inspect.signature(called)}: expected (observation), or "
            "(observation, noise) and the attribute noise_shape"
        ) from error
    return None if shape is None else tuple(shape)


def _feature_count(name: str, policy: Callable[..., Any]) -> int:
    """Return the number of features that a policy states, 0 if it has none."""
    count, method = getattr(policy, "feature_count", None), getattr(policy, "features", None)
    if count is None and method is None:
        return 0
    if type(count) is not int or count < 1 or not callable(method):
        raise UserError(
            f"base {name!r}: a policy with features has a method features(observation) and a positive integer "
            f"feature_count, got {method!r} and {count!r}"
        )
    return count
