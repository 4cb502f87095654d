"""Policy: observations by name in, actions in native units out, behind a guard or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkGuard, FlowPolicy, Policy
from softflow.policies.weights import write_module
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from softflow.training.checkpoint import load_policy, save_policy
from tests.policies.guards import calibrated, standard_normal
from tests.policies.tasks import ACTION, IMAGES, N_ACTION_STEPS, NUMBERS, make_policy, observe, row_of

both = pytest.mark.parametrize("task", [NUMBERS, IMAGES], ids=["numbers", "images"])


def act(policy: Policy, observation: Any) -> Any:
    torch.manual_seed(3)
    return policy.act(observation)


@both
def test_what_the_deployed_policy_chooses_is_scaled_to_native_units(task: TaskSpec) -> None:
    deployed, observation = make_policy(task), observe(task)
    actions = act(Policy(deployed), observation)
    torch.manual_seed(3)
    unit = deployed.act(torch.from_numpy(task.rows(observation)[0])).double().numpy()
    assert actions.shape == (5, N_ACTION_STEPS, 4) and actions.dtype == np.float32
    expected = [-1 + (unit[..., 0] + 1) * 2, 0.5 + (unit[..., 1] + 1) * 0.1, np.full((5, 2), 2.0), unit[..., 2]]
    np.testing.assert_allclose(actions, np.stack(expected, -1), atol=1e-6)
    assert actions.std((0, 1))[[0, 1, 3]].min() > 0.001


@both
def test_keys_in_any_order_nested_or_flat_are_the_same_observation(task: TaskSpec) -> None:
    policy, observation = Policy(make_policy(task)), observe(task)
    expected = act(policy, observation)
    reordered: dict[str, Any] = dict(reversed(observation.items()))
    np.testing.assert_array_equal(act(policy, reordered), expected)
    if task is NUMBERS:
        reordered["joint"] = {"pos": reordered.pop("joint/pos")}
    np.testing.assert_array_equal(act(policy, reordered | {"clock": "12:30"}), expected)


@both
def test_one_observation_is_a_batch_of_one(task: TaskSpec) -> None:
    policy, observation = Policy(make_policy(task)), observe(task)
    alone = act(policy, row_of(observation, 2))
    assert alone.shape == (N_ACTION_STEPS, 4)
    (batched,) = act(policy, {name: values[2:3] for name, values in observation.items()})
    np.testing.assert_array_equal(alone, batched)


@both
def test_tensors_give_tensors(task: TaskSpec) -> None:
    policy, observation = Policy(make_policy(task)), observe(task)
    given = {name: torch.from_numpy(values) for name, values in observation.items()}
    actions = act(policy, given)
    assert isinstance(actions, torch.Tensor) and actions.dtype == torch.float32 and not actions.is_inference()
    np.testing.assert_array_equal(actions.numpy(), act(policy, observation))
    assert act(policy, row_of(given, 0)).shape == (N_ACTION_STEPS, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_any_real_dtype_is_taken(dtype: torch.dtype) -> None:
    policy, observation = Policy(make_policy(NUMBERS)), observe(NUMBERS)
    observation["joint/pos"] = np.round(observation["joint/pos"])  # which all of them have
    expected = act(policy, observation)
    given = {name: torch.from_numpy(values) for name, values in observation.items()}
    given["joint/pos"] = given["joint/pos"].to(dtype).requires_grad_(dtype.is_floating_point)
    np.testing.assert_array_equal(act(policy, given), expected)


def test_a_task_of_one_array_takes_the_array() -> None:
    task = TaskSpec((ObservationPart("observation", (4,)),), ACTION)
    policy, rows = Policy(make_policy(task)), np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_array_equal(act(policy, rows), act(policy, {"observation": rows}))
    tensor = act(policy, torch.from_numpy(rows[0]))
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (N_ACTION_STEPS, 4)


@both
def test_the_greedy_chunk_is_whole_and_native(task: TaskSpec) -> None:
    deployed, observation = make_policy(task), observe(task)
    expected = task.native_actions(deployed.policy.greedy(torch.from_numpy(task.rows(observation)[0])).detach().numpy())
    np.testing.assert_array_equal(Policy(deployed).greedy(observation), expected)
    assert Policy(deployed).greedy(row_of(observation, 0)).shape == (4, 4)


def without(name: str) -> Callable[[dict], dict]:
    return lambda given: {key: value for key, value in given.items() if key != name}


def replaced(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[dict], dict]:
    return lambda given: {**given, name: change(given[name])}


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values.reshape(-1)[1] = np.nan
    return values


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (NUMBERS, without("force"), "the observation has no 'force'"),
        (NUMBERS, replaced("joint/pos", lambda values: values[:, :2]), r"'joint/pos' is float32 of shape \(5, 2\)"),
        (NUMBERS, replaced("joint/pos", with_nan), r"joint/pos\[1\] is nan, not a finite float32"),
        (NUMBERS, replaced("mode", lambda values: values + 3), r"'mode' is \d, expected 0 \.\.\. 2"),
        (NUMBERS, replaced("touch", lambda values: values[:2]), "different batch sizes .* touch: 2"),
        (IMAGES, replaced("wrist", lambda values: values / 255), "'wrist' is an image of float64, expected uint8"),
        (IMAGES, replaced("wrist", lambda values: values.transpose(0, 2, 3, 1)), r"'wrist' is uint8 of shape \(5, 16"),
        (IMAGES, replaced("depth", with_nan), "'depth' has pixels that are not finite"),
    ],
)
def test_what_is_wrong_with_an_observation_is_named(task: TaskSpec, change: Callable, message: str) -> None:
    policy = Policy(make_policy(task))
    with pytest.raises(ValueError, match=message) as caught:
        policy.act(change(observe(task)))
    assert "\n" not in str(caught.value)


def test_a_policy_without_a_task_says_what_to_do() -> None:
    policy, observation = Policy(make_policy(None, of=NUMBERS)), observe(NUMBERS)
    with pytest.raises(UserError, match=r"saved without a description of its task.*policy\.task = "):
        policy.act(observation)
    policy.task = NUMBERS
    np.testing.assert_array_equal(act(policy, observation), act(Policy(make_policy(NUMBERS)), observation))


def test_another_policys_task_is_refused() -> None:
    deployed = make_policy(NUMBERS)
    with pytest.raises(ValueError, match=r"observations of wrist \(16, 20, 3\), .* the policy of 11 numbers"):
        deployed.task = IMAGES
    with pytest.raises(ValueError, match="actions of 1 numbers, the policy of 3"):
        make_policy(dataclasses.replace(NUMBERS, action=ACTION[2:]), of=NUMBERS)
    assert deployed.task is NUMBERS


@both
def test_the_task_is_saved_with_the_policy(task: TaskSpec, tmp_path: Path) -> None:
    deployed, observation = make_policy(task), observe(task)
    save_policy(tmp_path, deployed)
    loaded = load_policy(tmp_path)
    assert loaded.task == task
    np.testing.assert_array_equal(act(Policy(loaded), observation), act(Policy(deployed), observation))
    save_policy(tmp_path, make_policy(None, of=task))
    assert '"task"' not in (tmp_path / "policy.json").read_text() and load_policy(tmp_path).task is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"action": []}, "at least one part of an action"),
        ({"observation": [{"name": "joint", "shape": [3], "dtype": "float32"}]}, "of 3 numbers, the policy of 11"),
        ({"rate": -1.0}, "the control rate must be a positive number"),
        ({"observation": 3}, "not the description of a task"),
    ],
)
def test_a_policy_is_not_loaded_with_a_task_that_is_none(changed: dict, message: str, tmp_path: Path) -> None:
    deployed = make_policy(NUMBERS)
    described = deployed.describe()
    write_module(tmp_path, "policy", deployed, {**described, "task": {**described["task"], **changed}})
    with pytest.raises(UserError, match=f"the policy cannot be loaded: .*{message}"):
        load_policy(tmp_path)


# --------------------------------------------------------------------------------------------------------- with a guard

PLANE = TaskSpec((ObservationPart("x", ()), ObservationPart("y", ())), (ActionPart("force", (-10.0,), (30.0,)),))
"""Two numbers and one action, as the guard of `tests.policies.guards` has them; 1 is 20 native units."""


def guarded(guard: ChunkGuard, task: TaskSpec | None = PLANE, attempts: int = 0) -> Policy:
    """Behind it, a policy that always proposes the mean of its density, which is 0 and natively 10."""
    return Policy(BestOfN(standard_normal(), None, 2, 1, 0.0, task=task), guard, attempts)


def test_without_a_guard_there_is_no_report() -> None:
    with pytest.raises(UserError, match="no guard that reports"):
        Policy(BestOfN(standard_normal(), None, 2, 1, 0.0, task=PLANE)).act_and_report({"x": 0.0, "y": 0.0})


def test_a_report_has_the_observations_batch() -> None:
    policy = guarded(calibrated())
    actions, report = policy.act_and_report({"x": 0.0, "y": np.float16(9.0)})
    assert isinstance(actions, np.ndarray) and actions.tolist() == [[10.0], [10.0]]
    assert not report.flagged and bool(report.unfamiliar) and report.log_prob.shape == ()
    actions, report = policy.act_and_report({"x": torch.zeros(3), "y": torch.tensor([0.0, 9.0, 0.0])})
    assert isinstance(actions, torch.Tensor) and actions.shape == (3, 2, 1)
    assert report.unfamiliar.tolist() == [False, True, False]


@pytest.mark.parametrize("previous", [[30.0], {"force": np.array([30.0])}, torch.tensor([30.0])])
def test_the_rate_is_limited_from_the_native_action_executed_last(previous: Any) -> None:
    policy = guarded(calibrated(rate=0.25))  # 5 native units
    observation = {"x": 0.0, "y": 0.0}
    actions, report = policy.act_and_report(observation, previous)
    np.testing.assert_allclose(actions, [[25.0], [20.0]], rtol=1e-6)
    assert report.limited
    np.testing.assert_allclose(policy.act(observation, previous), actions)
    np.testing.assert_allclose(policy.act(observation), [[10.0], [10.0]])
    many = policy.act({"x": np.zeros(2), "y": np.zeros(2)}, [[30.0], [-10.0]])
    np.testing.assert_allclose(many[:, 0], [[25.0], [-5.0]], rtol=1e-6)


def test_an_action_outside_its_bounds_was_not_executed() -> None:
    with pytest.raises(ValueError, match=r"force\[0\] = 31 is outside its bounds -10 \.\.\. 30"):
        guarded(calibrated()).act({"x": 0.0, "y": 0.0}, [31.0])


def test_what_was_executed_at_a_limit_is_taken_back() -> None:
    """Whatever native units did to its last bit."""
    for high in np.linspace(0.05, 0.95, 40):
        policy = guarded(calibrated(low=float(np.float32(high / 2)), high=float(high)))
        for before in (policy.act({"x": 0.0, "y": 0.0})[-1], PLANE.native_actions(np.float32([[high]]))[0]):
            assert policy.act({"x": 0.0, "y": 0.0}, before).shape == (2, 1)


def test_a_guard_of_another_task_is_refused_by_name() -> None:
    other = dataclasses.replace(PLANE, action=(ActionPart("force", (-10.0,), (20.0,)),))
    other = dataclasses.replace(other, observation=(PLANE.observation[0], ObservationPart("z", ())))
    guard = calibrated()
    guard.task = other
    with pytest.raises(
        TaskMismatch, match=r"'y' is missing; .* 'z' is not expected; .*'force' .*20, expected -10 .* 30"
    ):
        guarded(guard)
    unaware = guarded(guard, task=None)  # then sizes must do
    with pytest.raises(TaskMismatch, match="'y' is missing"):
        unaware.task = PLANE
    guard.task = None
    guarded(guard)
    wide = FlowPolicy(3, 1, 2, "gaussian", dict(width=4))
    with pytest.raises(UserError, match=r"the guard: .* are of \(2, 2, 1\) numbers, the policy's of \(3, 2, 1\)"):
        Policy(BestOfN(wide, None, 1, 1, 0.5), guard)


def test_the_task_is_saved_with_the_guard(tmp_path: Path) -> None:
    guard = calibrated(task=PLANE)
    guard.save(tmp_path)
    assert ChunkGuard.load(tmp_path).task == PLANE
    calibrated().save(tmp_path)
    assert ChunkGuard.load(tmp_path).task is None
    with pytest.raises(ValueError, match="observations of 11 numbers"):
        ChunkGuard(standard_normal(), task=NUMBERS)
