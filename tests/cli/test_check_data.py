"""softflow-data check: faults that were planted in genuine files are found, and a healthy file has none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.cli import demonstrate
from softflow.data import SUCCESS_REWARDS, Dataset, Episode, load_dataset, save_demonstrations
from softflow.task import TaskSpec
from tests.cli.conftest import Command
from tests.formats.lerobot_datasets import as_columns, write_numbers

Change = Callable[[Episode, TaskSpec], dict[str, Any]]
PARTS = ("gripper", "opening", "head", "tail", "hole")
"""The order in which the environment writes its observation; gymnasium sorts the keys."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Eight demonstrations each, from seeds that no fresh reset has."""
    folder, datasets = tmp_path_factory.mktemp("recorded"), {}
    for env in ("peg_insertion", "two_routes"):
        path = folder / f"{env}.npz"
        assert demonstrate.main(["--env", env, "--episodes", "8", "--seed", "7", "--out", str(path)]) == 0
        datasets[env] = load_dataset(path)
    return datasets


def save(dataset: Dataset, change: Change | None = None, seeds: bool = True, task: bool = True) -> None:
    """Write `d.npz`, with changed fields of each episode, with or without the seeds and the task."""
    assert dataset.task is not None
    episodes = [replace(one, **change(one, dataset.task)) if change else one for one in dataset.episodes]
    kept = [replace(one, seed=one.seed if seeds else None, task=None) for one in episodes]
    save_demonstrations("d.npz", kept, dataset.task if task else None)


def natively(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": task.native_actions(episode.action)}


def over_limit(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": task.native_actions(episode.action) / np.maximum(np.abs(task.low), np.abs(task.high))}


def late(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": np.concatenate([np.zeros_like(episode.action[:1]), episode.action[:-1]])}


def early(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": np.concatenate([episode.action[1:], episode.action[-1:]])}


def flipped(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": episode.action * np.where(np.arange(task.action_dim) == 1, -1, 1)}


def exchanged(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    """Exchange the first two numbers of an action, which have the same bounds."""
    return {"action": episode.action[:, [1, 0, *range(2, task.action_dim)]]}


def hand_for_head(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    order = ("head", "gripper", "hole", "opening", "tail")
    return {"observation": episode.observation[:, np.concatenate([task.columns[name] for name in order])]}


def reordered(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"observation": episode.observation[:, np.concatenate([task.columns[name] for name in PARTS])]}


FAULTS: list[tuple[str, Change, str, str]] = [
    ("peg_insertion", natively, "actions", "in the environment's units already"),
    ("peg_insertion", over_limit, "actions", "stored as action / limit"),
    ("peg_insertion", late, "timing", "row t was executed in row t - 1"),
    ("peg_insertion", early, "timing", "row t was executed in row t + 1"),
    ("peg_insertion", reordered, "order", f"read as {', '.join(PARTS)}"),
    ("peg_insertion", hand_for_head, "order", "read as head, gripper, hole, opening, tail, their"),
    ("peg_insertion", flipped, "actions", "another sign: action[1] is -action[1] of the dataset. Replayed so"),
    ("peg_insertion", exchanged, "actions", "sign: action[0] is action[1], action[1] is action[0] of the dataset. "),
    ("two_routes", flipped, "actions", "another sign: action[1] is -action[1] of the dataset. Replayed so"),
    ("two_routes", exchanged, "actions", "sign: action[0] is action[1], action[1] is action[0] of the dataset. "),
    ("two_routes", late, "timing", "row t was executed in row t - 1"),
    ("two_routes", early, "timing", "row t was executed in row t + 1"),
]


@pytest.mark.parametrize(
    ("seeds", "task"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("env", "change", "kind", "text"), FAULTS)
def test_a_fault_is_the_one_finding(
    env: str,
    change: Change,
    kind: str,
    text: str,
    seeds: bool,
    task: bool,
    recorded: dict[str, Dataset],
    command: Command,
) -> None:
    save(recorded[env], change, seeds, task)
    result = command(f"softflow-data check d.npz --env {env} --json")
    report = json.loads(result.out)
    assert result.status == 1, result
    assert [finding["kind"] for finding in report["findings"]] == [kind]
    assert text in report["findings"][0]["text"] and report["findings"][0]["advice"]
    assert report["replays"][0]["from_recorded_starts"] == seeds


@pytest.mark.parametrize("task", [True, False])
@pytest.mark.parametrize("env", ["peg_insertion", "two_routes"])
def test_a_healthy_file_has_no_finding(env: str, task: bool, recorded: dict[str, Dataset], command: Command) -> None:
    successes = sum(episode.is_success for episode in recorded[env].episodes)
    save(recorded[env], task=task)
    result = command(f"softflow-data check d.npz --env {env}")
    assert (result.status, result.err) == (0, "")
    assert "8 episodes replayed from their recorded seeds" in result.out
    assert "observations follow to the end in 8 of 8\n" in result.out
    assert f"\n  as recorded  0.00  success in {successes} of 8 " in result.out
    assert result.out.endswith("nothing is wrong\n")

    save(recorded[env], task=task, seeds=False)
    result = command(f"softflow-data check d.npz --env {env}")
    assert result.status == 0 and "8 episodes replayed from fresh resets" in result.out
    assert "remark: replays start from the nearest of 30 fresh resets" in result.out
    assert result.out.endswith("need not succeed: see the remarks for what they cannot show\n")


def test_too_few_replays_from_fresh_resets_prove_nothing(recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["two_routes"], late, seeds=False)
    result = command("softflow-data check d.npz --env two_routes --episodes 3")
    assert result.status == 0 and "3 episodes replayed" in result.out
    assert "remark: the actions may be one step late, but 3 episodes do not prove it: replay more" in result.out


def test_effects_that_too_few_replays_prove_are_a_remark(recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["two_routes"], flipped, seeds=False)
    result = command("softflow-data check d.npz --env two_routes --episodes 3")
    assert result.status == 0
    assert "remark: by their effects, numbers of the actions are in another order or have another" in result.out
    assert "action[1] is -action[1] of the dataset; the replays do not prove it\n" in result.out


def test_a_lerobot_dataset_is_replayed_from_fresh_resets(
    recorded: dict[str, Dataset], command: Command, tmp_path: Path
) -> None:
    episodes, task = recorded["two_routes"]
    assert task is not None
    for name, change, kinds in (("healthy", None, []), ("late", late, ["timing"])):
        changed = [replace(one, **change(one, task)) if change else one for one in episodes]
        write_numbers(tmp_path / name, [as_columns(episode) for episode in changed])
        result = command(f"softflow-data check {name} --env two_routes --json")
        report = json.loads(result.out)
        assert result.status == len(kinds) and [finding["kind"] for finding in report["findings"]] == kinds
        assert report["replays"][0]["episodes"] == 8 and not report["replays"][0]["from_recorded_starts"]


def test_parts_in_another_order_by_name_are_rearranged(recorded: dict[str, Dataset], command: Command) -> None:
    episodes, task = recorded["peg_insertion"]
    assert task is not None
    parts = {part.name: part for part in task.observation}
    other = replace(task, observation=tuple(parts[name] for name in PARTS))
    save_demonstrations("d.npz", [replace(one, **reordered(one, task), task=other) for one in episodes])
    result = command("softflow-data check d.npz --env peg_insertion")
    assert result.status == 0
    assert f"remark: the observation has the order {', '.join(PARTS)}, expected " in result.out


def test_how_far_a_replay_parts(recorded: dict[str, Dataset], command: Command) -> None:
    def stops(episode: Episode, task: TaskSpec) -> dict[str, Any]:
        steps = np.arange(len(episode))[:, None]
        return {"action": np.where(steps < 5, episode.action, 0)}

    save(recorded["two_routes"], stops)
    report = json.loads(command("softflow-data check d.npz --env two_routes --episodes 3 --json").out)
    [finding] = report["findings"]
    assert finding["kind"] == "replay" and "part from their recordings in 3 of 3 replays" in finding["text"]
    replayed = [recorded["two_routes"].episodes[index].observation for index in (0, 4, 7)]
    scale = np.sqrt(np.concatenate(replayed).var(0).mean())
    for rows, parted in zip(replayed, report["replays"][0]["parted"], strict=True):
        assert (parted["step"], parted["part"]) == (6, "observation")
        assert parted["distance"] == pytest.approx(np.sqrt(np.square(rows[6] - rows[5]).mean()) / scale, rel=1e-4)


def test_rewards_ends_and_successes_are_compared(recorded: dict[str, Dataset], command: Command) -> None:
    data = recorded["two_routes"]
    save(data, lambda episode, task: {"reward": episode.reward - 1})
    out = command("softflow-data check d.npz --env two_routes").out
    assert (
        "\nreward: rewards differ in 8 of 8 replays that follow their recordings (episodes 0, 1, 2, 3, 4, 5, 6, 7): "
        "the reward of step 0 of episode 0 is -1 in the dataset" in out
    )

    save(data, lambda episode, task: {"is_success": False})
    assert "\nsuccess: 8 of 8 replays" in command("softflow-data check d.npz --env two_routes").out

    save(data, lambda episode, task: {"terminated": False, "truncated": True})
    steps = len(data.episodes[0])
    assert f"episode 0 is not terminated after {steps} steps in the dataset and terminated after {steps} steps" in (
        command("softflow-data check d.npz --env two_routes").out
    )


def negated(episode: Episode, task: TaskSpec) -> dict[str, Any]:
    return {"action": -episode.action}


def only(change: Change, numbers: Sequence[int], dataset: Dataset) -> Change:
    """Change these episodes alone."""
    chosen = [dataset.episodes[number].seed for number in numbers]
    return lambda episode, task: change(episode, task) if episode.seed in chosen else {}


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (negated, "replay", "part from their recordings in 3 of 8 replays (episodes 1, 3, 6), which no"),
        (lambda episode, task: {"seed": 99}, "start", "in 3 of 8 episodes the environment does not start"),
        (lambda episode, task: {"reward": episode.reward - 1}, "reward", "(episodes 1, 3, 6): the reward of step 0 of"),
        (lambda episode, task: {"terminated": False, "truncated": True}, "end", "(episodes 1, 3, 6): episode 1 is not"),
        (lambda episode, task: {"is_success": False}, "success", "(episodes 1, 3, 6): of all that follow, 5 are"),
    ],
)
def test_a_few_wrong_episodes_are_found_and_named(
    change: Change, kind: str, text: str, recorded: dict[str, Dataset], command: Command
) -> None:
    data = recorded["peg_insertion"]
    save(data, only(change, (1, 3, 6), data))
    report = json.loads(command("softflow-data check d.npz --env peg_insertion --json").out)
    assert [finding["kind"] for finding in report["findings"]] == [kind]
    assert text in report["findings"][0]["text"] and "episodes 1, 3, 6)" in report["findings"][0]["text"]
    assert report["replays"][0]["from_recorded_starts"]


def test_half_of_the_episodes_may_be_wrong(recorded: dict[str, Dataset], command: Command) -> None:
    data = recorded["two_routes"]
    save(data, only(negated, (1, 3, 5, 7), data))
    result = command("softflow-data check d.npz --env two_routes")
    assert result.status == 1
    assert "\nreplay: observations part from their recordings in 4 of 8 replays (episodes 1, 3, 5, 7)" in result.out


def test_episodes_without_a_seed_are_replayed_beside_those_with_one(
    recorded: dict[str, Dataset], command: Command
) -> None:
    data = recorded["two_routes"]
    save(data, only(lambda *each: {**late(*each), "seed": None}, (0, 2, 4, 5, 7), data))
    report = json.loads(command("softflow-data check d.npz --env two_routes --json").out)
    assert [(one["numbers"], one["from_recorded_starts"]) for one in report["replays"]] == [
        ([1, 3, 6], True),
        ([0, 2, 4, 5, 7], False),
    ]
    [finding] = report["findings"]
    assert finding["kind"] == "timing"
    assert finding["text"].startswith("the 5 episodes without a seed: the actions are one step late")


@pytest.mark.parametrize("kind", ["sparse", "steps"])
def test_rewards_of_the_success_alone(kind: str, recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["two_routes"], lambda episode, task: {"reward": SUCCESS_REWARDS[kind].of(episode).reward})
    assert command(f"softflow-data check d.npz --env two_routes --reward {kind}").status == 0
    assert command("softflow-data check d.npz --env two_routes").status == (kind == "steps")


def test_seeds_of_another_environment(recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["peg_insertion"], lambda episode, task: {"seed": (episode.seed or 0) + 1})
    report = json.loads(command("softflow-data check d.npz --env peg_insertion --json").out)
    assert [finding["kind"] for finding in report["findings"]] == ["start"]
    assert "in 8 of 8 episodes the environment does not start from the recorded seed" in report["findings"][0]["text"]
    assert report["replays"][0]["from_recorded_starts"] is False


def test_an_observation_in_another_unit(recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["peg_insertion"], lambda episode, task: {"observation": episode.observation + 100}, seeds=False)
    findings = json.loads(command("softflow-data check d.npz --env peg_insertion --json").out)["findings"]
    assert {finding["kind"] for finding in findings} == {"start"}
    assert "start where none of 30 resets does" in findings[0]["text"]


@pytest.mark.parametrize("env", ["peg_insertion", "two_routes"])
def test_actions_in_another_unit(env: str, recorded: dict[str, Dataset], command: Command) -> None:
    change: Change = lambda episode, task: {"action": episode.action / 100}  # noqa: E731
    save(recorded[env], change, seeds=False)
    [finding] = json.loads(command(f"softflow-data check d.npz --env {env} --json").out)["findings"]
    assert finding["kind"] == "actions" and "and no other reading explains it: they move it 0.01" in finding["text"]
    save(recorded[env], change)
    [finding] = json.loads(command(f"softflow-data check d.npz --env {env} --json").out)["findings"]
    assert finding["kind"] == "replay" and "of the recorded motion (median)" in finding["text"]


@pytest.mark.parametrize(("factor", "said"), [(0.01, "only 1 / "), (100.0, "times as much")])
def test_observations_in_units_of_another_size(
    factor: float, said: str, recorded: dict[str, Dataset], command: Command
) -> None:
    save(recorded["peg_insertion"], lambda episode, task: {"observation": episode.observation * factor}, seeds=False)
    findings = json.loads(command("softflow-data check d.npz --env peg_insertion --json").out)["findings"]
    assert {finding["kind"] for finding in findings} == {"start", "unit"}
    texts = [finding["text"] for finding in findings if finding["kind"] == "unit"]
    assert any("first observations of gripper[0] spread over " in text for text in texts)
    assert all(said in text for text in texts) and not any("opening" in text for text in texts)


def test_another_observation_is_not_replayed(recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["peg_insertion"])
    result = command("softflow-data check d.npz --env two_routes")
    assert result.status == 1 and "observation: observation 'observation' is missing\n" in result.out
    assert "action: action 'action' has 4 numbers, expected 2\n" in result.out
    assert "remark: nothing is replayed" in result.out and "7 findings\n" in result.out
    assert result.out.count("  -> ") == 2  # for six findings about the observation, and one about the action


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("check d.npz", "env"),
        ("check nowhere --env two_routes", "nowhere: no such file"),
        ("check empty.npz --env two_routes", "empty.npz: "),
        ("check half.npz --env two_routes", "half.npz: "),
        ("check d.npz --env two_ruotes", "unknown environment 'two_ruotes': did you mean 'two_routes'?"),
        ("check d.npz --env two_routes --episodes 0", "episodes must be at least 1, got 0"),
        ("check d.npz --env two_routes --success lots", "success is 'lots'"),
        ("check d.npz --env two_routes --reward steps --success return>=1", "reward is 'steps', which needs a success"),
        ("check d.npz --env two_routes --env-options.colour red", "colour"),
    ],
)
def test_what_is_refused_in_one_line(line: str, message: str, recorded: dict[str, Dataset], command: Command) -> None:
    save(recorded["two_routes"])
    Path("empty.npz").write_bytes(b"")
    whole = Path("d.npz").read_bytes()
    Path("half.npz").write_bytes(whole[: len(whole) // 2])
    assert message in command(f"softflow-data {line}").error()
