"""Checkpoints: what is loaded acts as what was saved, and what is damaged is named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from critics import ChunkCritic
from softflow.data import Episode, Replay
from softflow.errors import UserError
from softflow.policies import BestOfN, FlowPolicy
from softflow.training.checkpoint import load_policy, load_training, save_policy, save_training
from tests.damage import sign


def make_policy(candidates: int = 5, critic: bool = True, fitted: bool = True) -> BestOfN:
    torch.manual_seed(0)
    policy = FlowPolicy(3, 2, 4, "coupling", dict(layers=2, width=8, components=2))
    if fitted:
        policy.normalizer.fit(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))
    value = ChunkCritic(context_dim=3, horizon=1, action_dim=2, width=8) if critic else None
    return BestOfN(policy, value, n_action_steps=2, candidates=candidates, temperature=0.5)


def act(policy: BestOfN) -> torch.Tensor:
    torch.manual_seed(3)
    return policy.act(torch.randn(6, 3))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_policy(tmp_path, make_policy())
    return tmp_path


@pytest.mark.parametrize(("candidates", "critic"), [(5, True), (1, True), (1, False)])
def test_a_loaded_policy_acts_identically(tmp_path: Path, candidates: int, critic: bool) -> None:
    policy = make_policy(candidates, critic)
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    assert torch.equal(act(loaded), act(policy))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    members=st.integers(1, 3),
    candidates=st.integers(1, 3),
    data=st.data(),
)
def test_any_policy_comes_back(
    tmp_path: Path, sizes: tuple[int, int, int], members: int, candidates: int, data: st.DataObject
) -> None:
    """O, A and H, chunks of one step and an ensemble of one included."""
    observation_dim, action_dim, horizon = sizes
    policy = FlowPolicy(*sizes, "coupling", dict(layers=2, width=8, components=2))
    policy.normalizer.fit(torch.zeros(observation_dim), torch.ones(observation_dim))
    critic = ChunkCritic(context_dim=observation_dim, horizon=horizon, action_dim=action_dim, members=members, width=8)
    deployed = BestOfN(policy, critic, data.draw(st.integers(1, horizon)), candidates, 0.5)
    save_policy(tmp_path, deployed)
    loaded = load_policy(tmp_path)
    observation = torch.randn(2, observation_dim)
    torch.manual_seed(0)
    expected = deployed.act(observation)
    torch.manual_seed(0)
    assert torch.equal(loaded.act(observation), expected)
    assert loaded.describe() == deployed.describe() and expected.shape == (2, deployed.n_action_steps, action_dim)


def change_description(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        description = json.loads((folder / "policy.json").read_text())
        target = description["policy"] if key in description["policy"] else description
        target[key] = value
        (folder / "policy.json").write_text(json.dumps(description))
        sign(folder)

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "policy.safetensors")
        change(weights)
        save_file(weights, folder / "policy.safetensors")
        sign(folder)

    return rewrite


def truncate(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "policy.safetensors").unlink(), "policy.safetensors: no such file"),
    "no description": (lambda folder: (folder / "policy.json").unlink(), "policy.json: no such file"),
    "truncated weights": (truncate("policy.safetensors", 1000), "cannot be loaded"),
    "empty weights": (truncate("policy.safetensors", 0), "cannot be loaded"),
    "truncated description": (truncate("policy.json", 40), "cannot be loaded"),
    "another description": (lambda folder: (folder / "policy.json").write_text("[1]"), "cannot be loaded"),
    "bytes": (lambda folder: (folder / "policy.json").write_bytes(b"\xff\xfe"), "cannot be loaded"),
    "another shape": (change_description("observation_dim", 5), "size mismatch"),
    "unknown flow": (change_description("flow", "couplin"), "did you mean 'coupling'"),
    "no steps": (change_description("n_action_steps", 0), "n_action_steps must be in 1 ... horizon = 4, got 0"),
    "no candidates": (change_description("candidates", "5"), "candidates must be an integer, at least 1, got '5'"),
    "no temperature": (change_description("temperature", None), "temperature must be a number, at least 0, got None"),
    "no mapping": (change_description("policy", [1]), "cannot be loaded"),
    "unknown key": (change_description("executes", 2), "executes"),
    "statistics left out": (change_weights(lambda w: w.pop("policy.normalizer.mean")), "policy.normalizer.mean"),
    "statistics never fitted": (change_weights(lambda w: w["policy.normalizer.std"].fill_(torch.nan)), "statistics"),
    "statistics of zero": (change_weights(lambda w: w["policy.normalizer.std"].zero_()), "statistics"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_one_line(damage: str, saved: Path) -> None:
    inflict, message = DAMAGES[damage]
    inflict(saved)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_a_policy_that_was_never_fitted_is_not_loaded(tmp_path: Path) -> None:
    save_policy(tmp_path, make_policy(fitted=False))
    with pytest.raises(UserError, match="no observation statistics"):
        load_policy(tmp_path)


def make_replay(episodes: int) -> Replay:
    replay, rng = Replay(30, 3, 2), np.random.default_rng(0)
    for _ in range(episodes):
        observation, action = rng.normal(size=(8, 3)), rng.uniform(-1, 1, (7, 2))
        replay.add_episode(Episode(observation, action, np.ones(7), True, False, True))
    return replay


STATE = {"tensors": {"a": torch.arange(3.0)}, "number": 2, "pair": (0.1, "text"), "none": None, "flag": True}


def test_a_training_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    replay = make_replay(episodes=5)  # 40 rows: the ring has wrapped
    save_training(tmp_path, STATE, replay)
    other = make_replay(episodes=1)
    state = load_training(tmp_path, other)
    assert torch.equal(state["tensors"]["a"], STATE["tensors"]["a"])
    assert {**state, "tensors": None} == {**STATE, "tensors": None}
    for name, column in replay.used_rows().items():
        np.testing.assert_array_equal(other.used_rows()[name], column, err_msg=name)


class Foreign:
    """What a checkpoint of somebody else's might hold."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("name", ["training.pt", "replay.npz"])
@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_a_damaged_training_is_named_in_one_line(name: str, keep: float | None, tmp_path: Path) -> None:
    save_training(tmp_path, STATE, make_replay(2))
    file = tmp_path / name
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(UserError, match="no such file" if keep is None else "cannot be resumed") as caught:
        load_training(tmp_path, make_replay(0))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_foreign_objects_are_not_unpickled(tmp_path: Path) -> None:
    save_training(tmp_path, STATE | {"evil": Foreign()}, make_replay(1))
    with pytest.raises(UserError, match="cannot be resumed"):
        load_training(tmp_path, make_replay(0))


def test_a_replay_of_another_size_is_refused(tmp_path: Path) -> None:
    save_training(tmp_path, STATE, make_replay(2))
    with pytest.raises(UserError, match="cannot be resumed"):
        load_training(tmp_path, Replay(31, 3, 2))
