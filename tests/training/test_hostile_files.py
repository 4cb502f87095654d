"""Every file that softflow reads: damaged, foreign or hostile, it is refused in one line, and nothing is executed."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from softflow.data import (
    Corrections,
    Episode,
    load_corrections,
    load_demonstrations,
    save_corrections,
    save_demonstrations,
)
from softflow.errors import UserError
from softflow.policies import ChunkGuard
from softflow.training.checkpoint import load_policy, load_training, save_policy, save_training
from tests.damage import EXECUTED, FOREIGN, PICKLE, Attack, flip, npz
from tests.policies.guards import calibrated
from tests.training.test_checkpoint import STATE, make_policy, make_replay

FLIPS = 200


class Kind(NamedTuple):
    """A kind of file: how one is written into a folder, and everything that reading it gives, as arrays and values."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]


def read_policy(folder: Path) -> Any:
    policy = load_policy(folder)
    return policy.state_dict(), policy.describe()


def read_training(folder: Path) -> Any:
    replay = make_replay(0)
    return load_training(folder, replay), replay.used_rows()


def write_demonstrations(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(4, 3)), rng.uniform(-1, 1, (3, 2)), np.ones(3)
    save_demonstrations(folder / "d.npz", [Episode(*arrays, True, False, True), Episode(*arrays, False, True, False)])


def write_corrections(folder: Path) -> None:
    chunks = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3, 2))
    given = Corrections(np.ones((5, 2)), *chunks, np.array([0, 0, 1, 1, 1]), np.array([True, False]))
    save_corrections(folder / "c.npz", given)


def write_policy(folder: Path) -> None:
    save_policy(folder, make_policy())


def write_training(folder: Path) -> None:
    save_training(folder, STATE, make_replay(2))


def read_guard(folder: Path) -> Any:
    guard = ChunkGuard.load(folder)
    return guard.state_dict(), guard.quantile, guard.density.describe()


KINDS = [
    Kind("guard.json", lambda folder: calibrated().save(folder), read_guard),
    Kind("guard.safetensors", lambda folder: calibrated().save(folder), read_guard),
    Kind("policy.json", write_policy, read_policy),
    Kind("policy.safetensors", write_policy, read_policy),
    Kind("training.pt", write_training, read_training),
    Kind("replay.npz", write_training, read_training),
    Kind("d.npz", write_demonstrations, lambda folder: list(map(vars, load_demonstrations(folder / "d.npz")))),
    Kind("c.npz", write_corrections, lambda folder: vars(load_corrections(folder / "c.npz"))),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(np.array_equal(first, second))


def refused(kind: Kind, folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        kind.read(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 900
    assert all(word in message for word in words), message
    assert not EXECUTED


@every_kind
def test_a_flipped_bit_is_noticed_or_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path)
    good, file, rng = kind.read(tmp_path), tmp_path / kind.name, random.Random(0)
    content, noticed = file.read_bytes(), 0
    for _ in range(FLIPS):
        file.write_bytes(flip(content, rng))
        try:
            read = kind.read(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
            noticed += 1
        else:
            assert same(read, good)
    assert noticed > FLIPS / 2  # the rest are dates, attributes and white space
    assert not EXECUTED


@every_kind
def test_a_cut_file_is_refused(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path)
    file, rng = tmp_path / kind.name, random.Random(0)
    content = file.read_bytes()
    for length in (0, 1, 4, 30, len(content) - 30, *(rng.randrange(len(content) - 2) for _ in range(20))):
        file.write_bytes(content[:length])
        refused(kind, tmp_path)


@every_kind
@pytest.mark.parametrize("content", FOREIGN)
def test_something_else_is_refused(kind: Kind, content: str, tmp_path: Path) -> None:
    kind.write(tmp_path)
    (tmp_path / kind.name).write_bytes(FOREIGN[content])
    refused(kind, tmp_path)


@every_kind
def test_a_folder_is_refused(kind: Kind, tmp_path: Path) -> None:
    kind.write(tmp_path)
    (tmp_path / kind.name).unlink()
    (tmp_path / kind.name).mkdir()
    refused(kind, tmp_path)


@every_kind
def test_a_file_of_another_kind_is_refused(kind: Kind, tmp_path: Path) -> None:
    for other in KINDS:
        other.write(tmp_path)
    contents = {other.name: (tmp_path / other.name).read_bytes() for other in KINDS}
    for name in contents.keys() - {kind.name}:
        (tmp_path / kind.name).write_bytes(contents[name])
        refused(kind, tmp_path)


def rewrite(file: Path, **changes: Any) -> None:
    """Write a file anew, whole but with some of its topmost entries changed (None: left out)."""
    if file.suffix == ".json":
        entries = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
    elif file.suffix == ".pt":
        entries = {**torch.load(file, weights_only=True), **changes}
        torch.save({key: value for key, value in entries.items() if value is not None}, file)
    else:
        with np.load(file) as arrays:
            entries = {**arrays, **changes}
        file.write_bytes(npz(**{key: value for key, value in entries.items() if value is not None}))


VERSIONED = [kind for kind in KINDS if not kind.name.endswith(".safetensors")]
PICKLES = {"training.pt": "state", "replay.npz": "action", "d.npz": "observation", "c.npz": "observation"}
"""The files that may hold one, and where."""


@pytest.mark.parametrize("kind", VERSIONED, ids=[kind.name for kind in VERSIONED])
def test_files_say_their_version(kind: Kind, tmp_path: Path) -> None:
    key = "schema_version" if kind.name.endswith(".npz") else "format_version"
    ours = 2 if kind.name in ("replay.npz", "training.pt") else 1
    for version, words in ((3, "a newer one wrote it, update this one"), (0, "an older one wrote it, use that one")):
        kind.write(tmp_path)
        rewrite(tmp_path / kind.name, **{key: version})
        refused(kind, tmp_path, f"is {version}, this version of softflow reads {ours}", words)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in PICKLES], ids=list(PICKLES))
def test_attacks_in_files_that_are_whole_otherwise(kind: Kind, tmp_path: Path) -> None:
    for key in (PICKLES[kind.name], "more"):
        kind.write(tmp_path)
        attack = Attack() if kind.name.endswith(".pt") else np.array([Attack()], dtype=object)
        rewrite(tmp_path / kind.name, **{key: attack})
        refused(kind, tmp_path)


def test_the_attack_works() -> None:
    pickle.loads(PICKLE)
    assert EXECUTED.pop() == "unpickled"


def test_policies_from_before_there_was_a_version_are_loaded(tmp_path: Path) -> None:
    write_policy(tmp_path)
    expected = read_policy(tmp_path)
    rewrite(tmp_path / "policy.json", format_version=None, sha256=None)
    assert same(read_policy(tmp_path), expected)


def test_trainings_from_before_there_was_a_version_say_what_to_do(tmp_path: Path) -> None:
    write_training(tmp_path)
    torch.save(STATE, tmp_path / "training.pt")
    with pytest.raises(UserError, match=r"training\.pt: .* without a format version: an older softflow"):
        read_training(tmp_path)
    write_training(tmp_path)
    rewrite(tmp_path / "replay.npz", schema_version=None)
    with pytest.raises(UserError, match=r"replay\.npz: cannot be resumed: missing schema_version"):
        read_training(tmp_path)


def test_two_halves_of_two_policies_are_refused(tmp_path: Path) -> None:
    write_policy(tmp_path)
    description = (tmp_path / "policy.json").read_text()
    other = make_policy()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_policy(tmp_path, other)
    (tmp_path / "policy.json").write_text(description)
    refused(Kind("policy.json", write_policy, read_policy), tmp_path, "has changed since it was written")
