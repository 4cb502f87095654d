"""What may happen to a file: bits flip, the end is missing, it was something else all along, or it is an attack."""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import ones

from softflow.policies.weights import checksum

EXECUTED: list[str] = []
"""Whatever an attack has executed."""


def execute(what: str) -> None:
    EXECUTED.append(what)


class Attack:
    """Executes something as it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return execute, ("unpickled",)


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _zip(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PICKLE = pickle.dumps(Attack())
FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\b\6\0\0\0\x1f\x15\xc4\x89",
    "text": b"observation,action\n1,2\n",
    "json": b"[1, 2]\n",
    "noise": random.Random(0).randbytes(400),
    "signature alone": b"PK\x03\x04",
    "npz of something else": npz(weights=np.zeros(3)),
    "safetensors of something else": save({"weight": ones(3)}),
    "pickle": PICKLE,
    "pickle in an npz": npz(schema_version=1, observation=np.array([Attack()], dtype=object)),
    "pickle in a zip": _zip(**{"archive/data.pkl": PICKLE, "archive/version": b"3\n", "archive/byteorder": b"little"}),
}
"""Contents that no file of ours has, by what they are."""


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit changed."""
    position = rng.randrange(len(content))
    return content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1 :]


def sign(folder: Path, name: str = "policy") -> None:
    """Give a policy or a guard that was changed the checksum that it would have been written with."""
    description = json.loads((folder / f"{name}.json").read_text())
    version = {name: description.pop(name, None) for name in ("format_version", "sha256")}
    version["sha256"] = checksum((folder / f"{name}.safetensors").read_bytes(), description)
    (folder / f"{name}.json").write_text(json.dumps(version | description))


@contextmanager
def full_disk(room: int = 10) -> Iterator[None]:
    """No file can grow beyond `room` bytes. Python ignores the signal, and gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
