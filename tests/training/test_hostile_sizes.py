"""A file that asks for more memory than its size explains is refused before it gets any."""

from __future__ import annotations

import io
import json
import resource
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from critics import ChunkCritic
from flows import available_flows
from softflow.data import Episode, load_corrections, load_demonstrations, save_demonstrations
from softflow.errors import UserError
from softflow.files import FREE_MEMORY, SIZE_LIMITS
from softflow.policies import BestOfN, ChunkGuard, FlowPolicy
from softflow.task.layout import ObservationLayout
from softflow.training.checkpoint import load_policy, load_training, save_policy
from tests.damage import sign
from tests.flows.flow_cases import SMALL
from tests.policies.guards import calibrated
from tests.training.test_checkpoint import make_replay

MEGABYTE = 2**20
ZEROS = 90 * MEGABYTE
"""More than `FREE_MEMORY`; compressed, a thousandth."""


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A gigabyte more than the tests have: what asks for more gets an error from torch, and another message."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1024 * MEGABYTE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ------------------------------------------------------------------------------------------------------ archives


def claiming(shape: tuple[int, ...], content: bytes) -> bytes:
    """An .npy file that says it holds float32 numbers of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def version() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(1))
    return file.getvalue()


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def shrunk(path: Path) -> None:
    write_zip(path, {"schema_version.npy": version(), "observation.npy": claiming((ZEROS // 4, 1), bytes(ZEROS))})


def boasting(path: Path) -> None:
    content = np.random.default_rng(0).bytes(MEGABYTE)
    write_zip(path, {"schema_version.npy": version(), "observation.npy": claiming((2**29, 1), content)})


def repeated(path: Path) -> None:
    """Each of a hundred names leads to the same megabyte."""
    write_zip(path, {"schema_version.npy": version(), "0.npy": claiming((MEGABYTE // 4, 1), bytes(MEGABYTE))})
    with zipfile.ZipFile(path, "a") as archive:
        member = archive.getinfo("0.npy")
        for number in range(1, 100):
            copy = zipfile.ZipInfo(f"{number}.npy")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy, field, getattr(member, field))
            archive.filelist.append(copy)
        archive._didModify = True  # type: ignore[attr-defined]


def training(folder: Path) -> Path:
    """A checkpoint of which `training.pt` is 90 MB of zeros, compressed as torch never does it."""
    stored, path = folder / "stored.pt", folder / "training.pt"
    torch.save({"format_version": 2, "state": {"zeros": torch.zeros(ZEROS // 4)}}, stored)
    with zipfile.ZipFile(stored) as archive:
        write_zip(path, {name: archive.read(name) for name in archive.namelist()})
    stored.unlink()
    return path


TOO_LARGE = r"takes \d+ MB, more than the \d+ MB allowed; .* SOFTFLOW_SIZE_LIMITS=2$"


ARCHIVES = {
    "zeros": (shrunk, TOO_LARGE),
    "one part many times": (repeated, TOO_LARGE),
    "a header that lies": (boasting, r"has [\d,]+ bytes, which float32 of shape .* does not fit"),
}


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most memory of Python and numpy that was in use since."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("load", [load_demonstrations, load_corrections])
@pytest.mark.parametrize("archive", ARCHIVES)
def test_archives(archive: str, load: Callable[[Path], Any], tmp_path: Path, peak: Callable[[], int]) -> None:
    make, message = ARCHIVES[archive]
    path = tmp_path / "d.npz"
    make(path)
    tracemalloc.reset_peak()
    with pytest.raises(UserError, match=message):
        load(path)
    assert peak() < 4 * MEGABYTE


def test_a_training_that_is_a_thousand_times_its_file(tmp_path: Path) -> None:
    path = training(tmp_path)
    with pytest.raises(UserError, match=rf"training\.pt: cannot be resumed: its content {TOO_LARGE}"):
        load_training(tmp_path, make_replay(0))
    assert path.stat().st_size < MEGABYTE


def test_what_was_written_is_read_however_much_it_shrinks(tmp_path: Path) -> None:
    layout = ObservationLayout.build([{"name": "camera", "shape": [64, 64, 3], "dtype": "uint8"}])
    seen = np.zeros((8_001, layout.size), np.uint8)  # a hundred megabytes that shrink to a hundred thousand bytes
    episode = Episode(seen, np.zeros((8_000, 1)), np.zeros(8_000), False, True, False, layout=layout)
    save_demonstrations(tmp_path / "d.npz", [episode])
    [loaded] = load_demonstrations(tmp_path / "d.npz")
    assert len(loaded) == 8_000


def test_a_dark_film_is_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of one colour shrink to a thousandth as well. They are loaded up to a limit, which can be raised."""
    layout = ObservationLayout.build([{"name": "camera", "shape": [64, 64, 3], "dtype": "uint8"}])
    seen = np.zeros((1_001, layout.size), np.uint8)
    steps = np.zeros((1_000, 1)), np.zeros(1_000)
    episode = Episode(seen, *steps, False, True, False, layout=layout)
    path = tmp_path / "d.npz"
    save_demonstrations(path, [episode])
    assert 200 * path.stat().st_size < seen.nbytes < FREE_MEMORY
    [loaded] = load_demonstrations(path)
    assert np.array_equal(loaded.observation, seen)
    monkeypatch.setenv(SIZE_LIMITS, "0.1")
    with pytest.raises(UserError, match=f"{SIZE_LIMITS}=1"):
        load_demonstrations(path)
    monkeypatch.setenv(SIZE_LIMITS, "much")
    with pytest.raises(UserError, match=f"variable {SIZE_LIMITS} must be a number above 0, got 'much'$"):
        load_demonstrations(path)


# ------------------------------------------------------------------------------------------------------ policies


def small_policy(flow: str, options: dict[str, Any]) -> BestOfN:
    torch.manual_seed(0)
    policy = FlowPolicy(3, 2, 4, flow, options)
    policy.normalizer.fit(torch.zeros(3), torch.ones(3))
    return BestOfN(policy, None, 2, 1, 1.0)


def describe(folder: Path, name: str, key: str, size: int) -> None:
    """Let a description ask for another size of the policy or its flow."""
    path = folder / f"{name}.json"
    description = json.loads(path.read_text())
    policy = description["density" if name == "guard" else "policy"]
    (policy if key in policy else policy["flow_options"])[key] = size
    path.write_text(json.dumps(description))
    sign(folder, name)


@pytest.mark.parametrize("flow", SMALL)
@pytest.mark.parametrize(
    ("key", "size"), [("observation_dim", 10**9), ("horizon", 10**6), ("action_dim", 10**6), ("width", 10**5)]
)
def test_policies_of_any_flow(flow: str, key: str, size: int, tmp_path: Path, little_memory: None) -> None:
    save_policy(tmp_path, small_policy(flow, SMALL[flow][0]))
    describe(tmp_path, "policy", key, size)
    with pytest.raises(UserError, match=r"what policy\.json describes takes [\d,]+ MB, more than the \d+ MB allowed"):
        load_policy(tmp_path)


def test_policies_of_many_small_layers(tmp_path: Path, little_memory: None) -> None:
    save_policy(tmp_path, small_policy("nflows_realnvp", {"layers": 2, "width": 4}))
    describe(tmp_path, "policy", "layers", 10**6)
    with pytest.raises(UserError, match=r"what policy\.json describes takes \d+ MB, more than the \d+ MB allowed"):
        load_policy(tmp_path)


def test_critics(tmp_path: Path, little_memory: None) -> None:
    save_policy(tmp_path, small_policy("gaussian", {"width": 4}))
    description = json.loads((tmp_path / "policy.json").read_text())
    description["critic"] = {"context_dim": 3, "horizon": 1, "action_dim": 2, "members": 2, "width": 10_000}
    (tmp_path / "policy.json").write_text(json.dumps(description))
    sign(tmp_path)
    with pytest.raises(UserError, match=r"what policy\.json describes takes 8\d\d MB, more than the \d+ MB allowed"):
        load_policy(tmp_path)


def test_candidates(tmp_path: Path) -> None:
    policy = small_policy("gaussian", {"width": 4})
    policy.critic = ChunkCritic(context_dim=3, horizon=1, action_dim=2, width=4)
    save_policy(tmp_path, policy)
    description = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**description, "candidates": 10**9}))
    sign(tmp_path)
    with pytest.raises(UserError, match=r"what is drawn for one observation takes 32,000 MB, more than the 67 MB"):
        load_policy(tmp_path)


@pytest.mark.parametrize(("key", "size"), [("observation_dim", 10**9), ("observation_dim", 10_000), ("width", 10**5)])
def test_guards(key: str, size: int, tmp_path: Path, little_memory: None) -> None:
    """A guard's matrix is as wide as the observation, and as high."""
    calibrated().save(tmp_path)
    describe(tmp_path, "guard", key, size)
    with pytest.raises(UserError, match=r"what guard\.json describes takes [\d,]+ MB, more than the \d+ MB allowed"):
        ChunkGuard.load(tmp_path)


def test_a_long_description(tmp_path: Path) -> None:
    save_policy(tmp_path, small_policy("gaussian", {"width": 4}))
    path = tmp_path / "policy.json"
    path.write_text(path.read_text() + " " * 100_000)
    with pytest.raises(UserError, match=r"takes 100,\d+ bytes, more than the 100,000 bytes allowed"):
        load_policy(tmp_path)


@pytest.mark.filterwarnings("ignore:an autoregressive transform")
@pytest.mark.parametrize("flow", available_flows())
def test_policies_of_the_sizes_that_are_usual_are_loaded(flow: str, tmp_path: Path) -> None:
    policy = small_policy(flow, {})
    save_policy(tmp_path, policy)
    loaded, expected = load_policy(tmp_path).state_dict(), policy.state_dict()
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_large_policy_can_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(tmp_path, small_policy("gaussian", {"width": 16}))
    monkeypatch.setenv(SIZE_LIMITS, "0.0001")
    with pytest.raises(UserError, match=rf"{SIZE_LIMITS}=1$"):
        load_policy(tmp_path)
    monkeypatch.setenv(SIZE_LIMITS, "1")
    load_policy(tmp_path)
