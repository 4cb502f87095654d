"""Policies of LeRobot as bases. The packages are small ones with lerobot's interface."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softflow.errors import UserError
from softflow.policies.bases.lerobot_policy import LeRobotPolicy
from softflow.policies.bases.python_policy import PythonPolicy
from tests.policies.lerobot_policies import write_packages

NAME = "softflow.policies.bases.lerobot_policy:LeRobotPolicy"
CONFIG: dict[str, Any] = {
    "n_obs_steps": 1,
    "horizon": 16,
    "chunk_size": 8,
    "n_action_steps": 8,
    "max_action_dim": 5,
    "num_inference_steps": None,
    "num_steps": 10,
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [3]},
        "observation.images.cam": {"type": "VISUAL", "shape": [3, 24, 32]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}
STATE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@pytest.fixture(autouse=True)
def lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_packages(tmp_path / "packages")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    present = set(sys.modules)
    yield
    for name in set(sys.modules) - present:
        if name.partition(".")[0] == "lerobot":
            del sys.modules[name]


def saved(folder: Path, kind: str, **changes: Any) -> str:
    """Save a policy whose pre-processor subtracts 1, and whose post-processor multiplies by 10 and adds 5."""
    (folder / "config.json").write_text(json.dumps(CONFIG | {"type": kind} | changes))
    (folder / "policy_preprocessor.json").write_text('{"offset": 1}')
    (folder / "policy_postprocessor.json").write_text('{"offset": 5}')
    return str(folder)


def observed(**changes: Tensor) -> dict[str, Tensor]:
    cam = torch.full((2, 24, 32, 3), 51, dtype=torch.uint8)  # a fifth of white
    return {"cam": cam, "state": STATE.double(), **changes}


def test_act_is_deterministic_and_in_native_units(tmp_path: Path) -> None:
    policy = LeRobotPolicy(saved(tmp_path, "act"))
    assert policy.noise_shape is None
    expected = 10 * 2 * (STATE[:, :2] - 1) + 5
    assert torch.equal(policy(observed()), expected[:, None].expand(2, 8, 2))


def test_diffusion_starts_from_the_noise_and_has_a_gradient(tmp_path: Path) -> None:
    policy = LeRobotPolicy(saved(tmp_path, "diffusion"), steps=4)
    assert policy.noise_shape == (16, 2)
    noise = torch.randn(2, 16, 2, requires_grad=True)
    chunk = policy(observed(), noise)
    torch.testing.assert_close(chunk, 10 * (0.2 + noise[:, :8] / 2) + 5)
    chunk.sum().backward()
    assert noise.grad is not None and (noise.grad[:, :8] == 5).all() and (noise.grad[:, 8:] == 0).all()


def test_a_flow_matching_policy_reads_the_instruction_and_forgets(tmp_path: Path) -> None:
    policy = LeRobotPolicy(saved(tmp_path, "smolvla"), instruction="reach")
    assert policy.noise_shape == (8, 5)
    noise = torch.randn(2, 8, 5)
    for _ in range(2):
        expected = 10 * (noise[:, :, :2] + STATE[:, None, :2] - 1) + 5
        torch.testing.assert_close(policy(observed(), noise), expected)


@pytest.mark.parametrize("name", ["cam", "observation/images/cam", "observation.images.cam"])
@pytest.mark.parametrize("shape", [(2, 3, 24, 32), (2, 24, 32, 3)])
def test_images_have_any_order_of_axes_and_either_name(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    policy = LeRobotPolicy(saved(tmp_path, "diffusion"))
    names = {name: torch.full(shape, 51, dtype=torch.uint8), "state": STATE}
    torch.testing.assert_close(policy(names, torch.zeros(2, 16, 2)), torch.full((2, 8, 2), 7.0))


def test_inputs_of_other_names(tmp_path: Path) -> None:
    policy = LeRobotPolicy(saved(tmp_path, "act"), names={"observation.state": "joints"})
    chunk = policy({"cam": observed()["cam"], "joints": STATE})
    assert chunk[0, 0].tolist() == [5, 25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": torch.zeros(2, 4)}, "'state' has 4 numbers, the policy's 'observation.state' 3"),
        ({"cam": torch.zeros(2, 24, 32, 3)}, "the image 'cam' is torch.float32, expected uint8"),
        ({"cam": torch.zeros(2, 32, 24, 3, dtype=torch.uint8)}, "has the shape (32, 24, 3), the policy's"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(changes: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:
        LeRobotPolicy(saved(tmp_path, "act"))(observed(**changes))
    assert message in str(refused.value)


def test_an_input_that_the_task_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'observation\.state' is no part of the task: say which one it is"):
        LeRobotPolicy(saved(tmp_path, "act"))({"cam": observed()["cam"], "joints": STATE})


@pytest.mark.parametrize(
    ("kind", "changes", "options", "message"),
    [
        ("vqbet", {}, {}, "a policy of LeRobot of type 'vqbet' is not known"),
        ("diffusion", {"n_obs_steps": 2}, {}, "reads 2 observations at once"),
        ("act", {}, {"steps": 3}, "'act' has no denoising steps"),
        ("act", {}, {"names": {"observation.stat": "x"}}, "no input 'observation.stat': did you mean"),
    ],
)
def test_what_is_not_known_is_refused(
    kind: str, changes: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        LeRobotPolicy(saved(tmp_path, kind, **changes), **options)
    assert message in str(refused.value)


def test_a_name_on_the_hub_is_refused() -> None:
    with pytest.raises(UserError, match="path lerobot/act: no such folder; download a policy of the hub first"):
        LeRobotPolicy("lerobot/act")


def test_the_digest_covers_the_statistics_of_the_processors(tmp_path: Path) -> None:
    path = saved(tmp_path, "act")
    digest, again = (PythonPolicy(NAME, {"path": path}).sha256() for _ in range(2))
    assert digest == again
    (tmp_path / "policy_preprocessor.json").write_text('{"offset": 2}')
    assert PythonPolicy(NAME, {"path": path}).sha256() != digest


def test_it_is_a_base(tmp_path: Path) -> None:
    """As the steering of a run calls it, with arrays and without gradients of its weights."""
    model = PythonPolicy(NAME, {"path": saved(tmp_path, "diffusion")})
    assert model.noise_shape == (16, 2)
    arrays = {name: value.numpy() for name, value in observed().items()}
    noise = torch.randn(2, 16, 2, requires_grad=True)
    assert model(arrays, noise, "cpu").requires_grad
    assert not model(arrays, noise.detach(), "cpu").requires_grad


def test_lerobot_is_an_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(UserError, match=r"this base needs lerobot .*: pip install lerobot"):
        LeRobotPolicy(saved(tmp_path, "act"))
