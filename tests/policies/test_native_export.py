"""Exported policies: the named observation of a robot in, native actions out, and what a file says of itself."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softflow
from flows.export import FORMATS, ExportError, load_exported, read_metadata
from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkPolicy, FlowPolicy, OneStepPolicy, Policy, SteeredPolicy
from softflow.policies.native_export import export_greedy
from softflow.task import ActionPart, ObservationPart, TaskSpec
from tests.policies.tasks import ACTION, IMAGES, NUMBERS, make_policy, observe

EVERYWHERE = TaskSpec(
    (
        ObservationPart("half", (2,), "float16"),
        ObservationPart("count", (1,), "uint8"),
        ObservationPart("video", (2, 16, 16, 3), "float64", axes="KHWC", value_range=(-1.0, 1.0)),
        ObservationPart("linear", (16, 17), "uint8", axes="HW"),  # a name that torch gives to nodes
    ),
    (ActionPart("micrometres", (1e-6,), (3e-6,)), ActionPart("newtons", (-5e3,), (1e3,))),
)
TASKS = {"numbers": NUMBERS, "images": IMAGES, "everywhere": EVERYWHERE}
QUICK = {("numbers", "torch_export"), ("images", "onnx"), *((name, "torchscript") for name in TASKS)}


def tensors(task: TaskSpec, batch: int, seed: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in observe(task, batch, seed).items()}


CASES = [
    pytest.param(task, format, id=f"{name}-{format}", marks=[] if (name, format) in QUICK else [pytest.mark.slow])
    for name, task in TASKS.items()
    for format in FORMATS
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TaskSpec, str], tuple[Path, float]]:
    """The file of a task's Gaussian policy in a format, which takes seconds, and its difference from the policy."""

    @functools.cache
    def export(task: TaskSpec, format: str) -> tuple[Path, float]:
        path = tmp_path_factory.mktemp("exported") / "policy"
        return path, export_greedy(make_policy(task, "gaussian"), path, format)

    return export


@pytest.mark.parametrize(("task", "format"), CASES)
def test_a_file_takes_names_and_gives_native_actions(task: TaskSpec, format: str, exported: Any) -> None:
    deployed, (path, difference) = make_policy(task, "gaussian"), exported(task, format)
    assert difference <= 1e-5
    run = load_exported(path, format, trusted=True)
    distance = torch.from_numpy(task.high - task.low).clamp(min=1e-9)
    for batch in (1, 6):
        observation = tensors(task, batch, seed=batch)
        expected = Policy(deployed).greedy(observation)
        assert expected.shape == (batch, 4, len(task.low))
        for given in (observation, dict(reversed(observation.items()))):
            assert ((run(given) - expected).abs() / distance).max() <= 1e-5
    assert json.loads(read_metadata(path, format)["softflow"]) == {
        "task": json.loads(json.dumps(task.describe())),
        "n_action_steps": 2,
        "horizon": 4,
        "version": softflow.__version__,
    }


CAMERA = TaskSpec((ObservationPart("camera", (16, 16, 1), "uint8", axes="HWC"),), ACTION)


@pytest.mark.parametrize("around", [OneStepPolicy, SteeredPolicy])
@pytest.mark.parametrize("task", [NUMBERS, IMAGES, CAMERA], ids=["numbers", "images", "camera"])
def test_every_kind_of_policy_is_exported(
    task: TaskSpec, around: Callable[[FlowPolicy], ChunkPolicy], tmp_path: Path
) -> None:
    base = make_policy(task, "gaussian").policy
    assert isinstance(base, FlowPolicy)
    deployed = BestOfN(around(base), None, 2, 1, 0.5, task=task).eval()
    assert export_greedy(deployed, tmp_path / "policy", "torchscript") <= 1e-5
    run, observation = load_exported(tmp_path / "policy", "torchscript", trusted=True), tensors(task, 3, seed=0)
    torch.testing.assert_close(run(observation), Policy(deployed).greedy(observation), rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
@pytest.mark.parametrize(
    ("task", "wrong"),
    [(NUMBERS, {"force": np.nan, "joint/pos": np.inf, "mode": 3}), (IMAGES, {"depth": np.nan, "joint": 1e300})],
    ids=["numbers", "images"],
)
def test_where_the_policy_raises_a_file_gives_no_action(
    task: TaskSpec, wrong: dict[str, float], format: str, exported: Any
) -> None:
    deployed, (path, _) = make_policy(task, "gaussian"), exported(task, format)
    run = load_exported(path, format, trusted=True)
    for name, value in wrong.items():
        observation = tensors(task, 3, seed=0)
        observation[name][1] = value
        with pytest.raises(ValueError, match=name):
            Policy(deployed).act(observation)
        chunk = run(observation)
        assert chunk[1].isnan().all() and chunk[[0, 2]].isfinite().all()


ALONE = """
import json, sys
sys.modules["torch"] = sys.modules["softflow"] = sys.modules["flows"] = None
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["softflow"])
task, inputs = about["task"], {one.name: one for one in session.get_inputs()}
given = np.load("observation.npz")
feed = {}
for part in task["observation"]:
    assert inputs[part["name"]].shape == ["batch", *part["shape"]], part
    feed[part["name"]] = given[part["name"].replace("/", ".")].astype(part["dtype"])
assert set(feed) == set(inputs)
(chunk,) = session.run(["chunk"], feed)
low, high = (np.concatenate([part[bound] for part in task["action"]]) for bound in ("low", "high"))
assert chunk.shape[1:] == (about["horizon"], len(low)), chunk.shape
assert (chunk >= low - 1e-6).all() and (chunk <= high + 1e-6).all()
np.save("actions.npy", chunk[:, : about["n_action_steps"]])
"""


@pytest.mark.parametrize("task", [NUMBERS, IMAGES], ids=["numbers", "images"])
def test_onnxruntime_and_numpy_are_enough(task: TaskSpec, exported: Any, tmp_path: Path) -> None:
    deployed = make_policy(task, "gaussian", candidates=1, temperature=0.0)  # the same weights; it acts greedily
    shutil.copy(exported(task, "onnx")[0], tmp_path / "policy.onnx")
    observation = observe(task)
    np.savez(tmp_path / "observation.npz", **{name.replace("/", "."): value for name, value in observation.items()})
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    expected = Policy(deployed).act(observation)
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), expected, atol=1e-5)


def test_without_a_task_rows_are_taken(tmp_path: Path) -> None:
    deployed = make_policy(None, "gaussian", of=NUMBERS)
    export_greedy(deployed, tmp_path / "policy", "torchscript")
    rows = torch.randn(3, 11)
    chunk = load_exported(tmp_path / "policy", "torchscript", trusted=True)(rows)
    torch.testing.assert_close(chunk, deployed.policy.greedy(rows), rtol=0, atol=1e-5)
    assert json.loads(read_metadata(tmp_path / "policy", "torchscript")["softflow"])["task"] is None
    with pytest.raises(UserError, match=r"sees images .* without a description of its task: set its `task`"):
        export_greedy(make_policy(None, of=IMAGES), tmp_path / "images", "torchscript")
    assert not (tmp_path / "images").exists()


def test_a_file_is_compared_with_the_policy_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is packed in another way by numpy and by torch is noticed."""
    pack = ObservationPart.pack
    monkeypatch.setattr(ObservationPart, "pack", lambda part, value: np.roll(pack(part, value), 1, -1))
    with pytest.raises(ExportError, match="differs from the original"):
        export_greedy(make_policy(NUMBERS, "gaussian"), tmp_path / "policy", "torchscript")
    assert not list(tmp_path.iterdir())


def test_small_units_are_compared_as_precisely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskSpec(NUMBERS.observation, (ActionPart("micrometres", (-1e-6,), (1e-6,)), *ACTION[1:]))
    native_actions = TaskSpec.native_actions
    monkeypatch.setattr(TaskSpec, "native_actions", lambda task, unit: native_actions(task, unit) + np.float32(1e-9))
    with pytest.raises(ExportError, match=r"differs from the original by 1\.0e-03"):
        export_greedy(make_policy(task, "gaussian"), tmp_path / "policy", "torchscript")


def test_a_part_with_the_outputs_name_is_refused(tmp_path: Path) -> None:
    task = TaskSpec((ObservationPart("chunk", (3,)),), ACTION)
    with pytest.raises(ValueError, match="'chunk': rename one"):
        export_greedy(make_policy(task, "gaussian"), tmp_path / "policy", "onnx")
