"""`--reward`: demonstrations and own episodes of a run have rewards of one kind, from its start to every resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box

import softflow
from softflow.algos import SoftFlow
from softflow.data import Episode, load_demonstrations, save_demonstrations
from softflow.envs import tasks
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import Command
from tests.cli.training_runs import interrupted

LENGTH, SOLVED_AT = 6, 4


class Line(gymnasium.Env[np.ndarray, np.ndarray]):
    """Solved from the fourth step on, after which the episode goes on. Every step costs 2 and another half."""

    observation_space = Box(-10, 10, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = np.full(1, self.steps, np.float32)
        return observation, -2.5, False, self.steps == LENGTH, {"is_success": self.steps >= SOLVED_AT}


gymnasium.register("tests/Line-v0", entry_point=Line)

SMALL = (
    "softflow-train --env tests/Line-v0 --num-envs 2 --eval-episodes 2 --collect-steps 20 --threads 1 --batch-size 8 "
    "--horizon 4 --n-action-steps 2 --flow-options.width 8 --critic-width 8 --imitation.updates 2 --warmup.updates 2 "
    "--offline.updates 2 --online.steps 40 --online.updates-per-step 0.1"
)


def save(path: str, successes: list[bool], seed: int = 0, reward: float = 0.5) -> None:
    """Demonstrations, cut off after six steps. By default, their rewards are of a third kind."""
    rng = np.random.default_rng(seed)
    observation = np.arange(LENGTH + 1.0)[:, None]
    episodes = [
        Episode(observation, rng.uniform(-1, 1, (LENGTH, 1)), np.full(LENGTH, reward), False, True, one)
        for one in successes
    ]
    save_demonstrations(path, episodes)


def rewards_of(run: str) -> list[list[float]]:
    return [episode.reward.tolist() for episode in load_demonstrations(f"{run}/demonstrations.npz")]


def own(run: str) -> tuple[set[float], int]:
    """The rewards of a run's own steps, and how many of them are of episodes that terminated."""
    with np.load(RunFolder.open(run).last_checkpoint() / "replay.npz") as replay:
        is_step = replay["remaining"] > 0  # a row without one is a final observation
        return set(replay["reward"][is_step].tolist()), int(replay["terminated"][is_step].sum())


EXPECTED = {
    "sparse": ([[0] * 5 + [1], [0] * 6], {0, 1}),
    "steps": ([[-1] * 5 + [0], [-1] * 6], {-1, 0}),
    "dataset": ([[0.5] * 6] * 2, {-2.5}),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_demonstrations_and_own_episodes_have_one_kind(kind: str, command: Command) -> None:
    save("d.npz", [True, False])
    result = command(f"{SMALL} --demos d.npz --reward {kind} --run-dir run")
    assert result.status == 0, result
    assert f"\nreward {kind}: " in result.out
    expected, rewards = EXPECTED[kind]
    assert rewards_of("run") == expected
    seen, terminal = own("run")
    assert seen == rewards and (terminal > 0) == (kind != "dataset")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["reward"] == kind
    said = "d.npz: 1 of the successful episodes did not end in a terminal state"
    assert (said in result.err) == (kind != "dataset")
    [evaluated] = {episode.reward.sum() for episode in softflow.Run("run").evaluate_episodes(2)[1]}
    assert evaluated == {"sparse": 1, "steps": -3, "dataset": -2.5 * LENGTH}[kind]


def test_a_resumed_run_keeps_its_rewards(command: Command) -> None:
    save("d.npz", [True, False])
    save("more.npz", [True], seed=1)
    with interrupted(SoftFlow, at=7):
        assert command(f"{SMALL} --demos d.npz --reward steps --run-dir run").status == 130
    assert "reward cannot be changed" in command("softflow-train --resume run --reward sparse").error()
    result = command("softflow-train --resume run --demos more.npz")
    assert result.status == 0 and "reward steps: 0 at the success" in result.out, result
    assert rewards_of("run") == [*EXPECTED["steps"][0], [-1] * 5 + [0]]
    assert own("run")[0] == {-1, 0}


def test_a_run_with_a_base_learns_by_its_rewards_and_its_rule(command: Command) -> None:
    save("d.npz", [True, False])
    line = f"{SMALL} --demos d.npz --reward sparse --imitate all --run-dir base"
    assert command(line).status == 0
    small = SMALL.replace("--env tests/Line-v0 ", "").replace("--imitation.updates 2 ", "")
    result = command(f"{small} --base base --run-dir new")
    assert result.status == 0, result
    settings = yaml.safe_load(Path("new/config.yaml").read_text())
    assert (settings["reward"], settings["imitate"]) == ("sparse", "all")
    assert rewards_of("new") == EXPECTED["sparse"][0] and own("new")[0] == {0, 1}
    result = command(f"{small} --base base --reward steps --imitate success --run-dir other")
    assert result.status == 0 and "imitate success: 1 of 2 episodes" in result.out, result
    assert rewards_of("other") == EXPECTED["steps"][0] and own("other")[0] == {-1, 0}


def test_recorded_demonstrations_have_them_as_well(command: Command) -> None:
    line = SMALL.replace("tests/Line-v0", "two_routes").replace("softflow-train", "softflow-train --algo imitation")
    for flag in ("critic-width 8", "warmup.updates 2", "offline.updates 2", "online.steps 40"):
        line = line.replace(f"--{flag} ", "")
    line = line.replace("--online.updates-per-step 0.1", "--num-demos 2 --reward steps --run-dir run")
    result = command(line)
    assert result.status == 0, result
    for episode in load_demonstrations("run/demonstrations.npz"):
        assert episode.is_success and episode.reward.tolist() == [-1.0] * (len(episode) - 1) + [0.0]
    assert "imitate success (auto: no step has reward to come" in result.out


def test_recorded_rewards_cannot_be_had_back(command: Command) -> None:
    small = "softflow-train --algo imitation --eval-episodes 1 --threads 1 --batch-size 8 --imitation.updates 2"
    line = f"{small} --num-envs 2 --env two_routes --horizon 4 --n-action-steps 2 --flow-options.width 8 --num-demos 3"
    assert command(f"{line} --reward steps --run-dir base").status == 0
    path = Path("base/demonstrations.npz")
    for given, name in ((f"{small} --base base", path.absolute()), (f"{line} --demos {path}", path)):
        error = command(f"{given} --reward dataset --run-dir new").error()
        assert f"{name}: it has the rewards of --reward steps, which the environment does not give: give " in error
        assert not Path("new").exists()
    edited = command(f"softflow-data filter {path} edited.npz --successes")
    assert edited.status == 0, edited
    assert "edited.npz: it has the rewards of --reward steps" in command(f"{line} --demos edited.npz").error()
    result = command(f"{line} --demos edited.npz --reward sparse --run-dir new")
    assert result.status == 0, result
    for episode in load_demonstrations("new/demonstrations.npz"):
        assert episode.reward.tolist() == [0.0] * (len(episode) - 1) + [1.0]


def test_sparse_rewards_are_those_of_an_environment_with_this_option(command: Command) -> None:
    save("d.npz", [True, False])
    assert command(f"{SMALL} --demos d.npz --reward sparse --run-dir base").status == 0
    line = f"{SMALL} --demos base/demonstrations.npz --env-options.sparse-success"
    result = command(f"{line} true --run-dir new")
    assert result.status == 0, result
    assert rewards_of("new") == EXPECTED["sparse"][0] and own("new")[0] == {0, 1}
    assert "it has the rewards of --reward sparse" in command(f"{line} false --run-dir other").error()


def test_a_run_with_a_base_of_other_rewards_chooses_its_own_rule(command: Command) -> None:
    save("d.npz", [True, False])
    assert command(f"{SMALL} --demos d.npz --reward sparse --run-dir base").status == 0
    assert yaml.safe_load(Path("base/config.yaml").read_text())["imitate"] == "reward_to_come"
    small = SMALL.replace("--env tests/Line-v0 ", "").replace("--imitation.updates 2 ", "")
    result = command(f"{small} --base base --reward steps --run-dir new")
    assert result.status == 0, result
    assert "imitate success (auto: no step has reward to come, and 1 of 2 episodes are" in result.out
    assert command(f"{small} --base base --reward sparse --run-dir same").status == 0
    assert yaml.safe_load(Path("same/config.yaml").read_text())["imitate"] == "reward_to_come"


class Helper:
    """Takes over after the first step."""

    mode = 0

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray], rng: np.random.Generator) -> None:
        pass

    def watch(self) -> bool:
        return True

    def take_over(self) -> None:
        pass

    def act(self) -> np.ndarray:
        return np.zeros(1, np.float32)


@pytest.mark.parametrize(("kind", "length"), [("dataset", LENGTH), ("sparse", SOLVED_AT), ("steps", SOLVED_AT)])
def test_a_corrected_episode_ends_as_in_the_run(
    kind: str, length: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tasks._tasks, "tests/Line-v0", tasks.Task("tests/Line-v0", supervisor=Helper))
    save("d.npz", [True, False])
    assert command(f"{SMALL} --demos d.npz --reward {kind} --run-dir run").status == 0
    result = command("softflow-demo --corrections run --episodes 2")
    assert result.status == 0, result
    for episode in load_demonstrations("corrections.npz"):
        assert episode.human.tolist() == [False, *[True] * (length - 1)] and episode.is_success
        assert episode.reward_kind == kind


def test_rewards_that_cannot_be_those_of_the_environment_are_said(command: Command) -> None:
    save("d.npz", [True, False])
    said = (
        "d.npz: 2 of 2 episodes have other rewards than the environment, whose option sparse_success gives 1 at the "
        "success and 0 elsewhere: give --reward sparse\n"
    )
    options = "--demos d.npz --env-options.sparse-success true"
    assert said in command(f"{SMALL} {options} --run-dir a").err
    result = command(f"{SMALL} {options} --reward sparse --run-dir b")
    assert result.status == 0 and said not in result.err
    assert own("b")[0] == {0, 1}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--reward sprase", "'sprase'"),
        ("--reward sparse --success return>=3", "reward is 'sparse', which needs a success that is not judged by the"),
        ("--demos-success all --success return>=3", "demos_success is 'all', but success 'return>=3' judges"),
        ("--demos-success some", "'some'"),
        (
            "--reward steps --env-options.sparse-success true",
            "reward is 'steps', but the option sparse_success of the environment gives 1 at the success: set",
        ),
    ],
)
def test_contradictions_are_refused(flags: str, message: str, command: Command) -> None:
    save("d.npz", [True, False])
    assert message in command(f"{SMALL} --demos d.npz {flags} --run-dir run").error()
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("successes", "flags", "warned"),
    [
        ([False, False], "--reward sparse", True),
        ([False, False], "--reward steps", True),
        ([False, True], "--reward sparse", False),
        ([False, False], "--reward dataset", False),
        ([False, False], "--reward sparse --demos-success all", False),
        ([False, False], "--reward sparse --algo imitation --imitate all", False),
    ],
)
def test_a_run_without_any_reward_says_so(successes: list[bool], flags: str, warned: bool, command: Command) -> None:
    save("d.npz", successes)
    only_imitation = "--algo imitation" in flags
    small = "--imitation.updates 2 --eval-episodes 0 --horizon 4 --flow-options.width 8" if only_imitation else ""
    line = f"softflow-train --env tests/Line-v0 {small}" if only_imitation else SMALL
    result = command(f"{line} --demos d.npz {flags} --run-dir run")
    assert result.status == 0, result
    assert result.err.count("warning: there is no reward to learn from: with --reward") == warned


def test_all_demonstrations_may_count_as_successes(command: Command) -> None:
    """Recordings of a person often say nothing about success. Added ones are judged in the same way."""
    save("d.npz", [False, False])
    save("more.npz", [False], seed=1)
    result = command(f"{SMALL} --demos d.npz --reward sparse --demos-success all --run-dir run")
    assert "d.npz: all 2 demonstrations count as successes, 0 of which are recorded as such" in result.out
    assert "warning" not in result.err
    assert rewards_of("run") == EXPECTED["sparse"][0][:1] * 2
    assert command("softflow-train --resume run --demos more.npz --online.steps 60").status == 0
    assert rewards_of("run") == EXPECTED["sparse"][0][:1] * 3
    assert all(episode.is_success and episode.terminated for episode in load_demonstrations("run/demonstrations.npz"))


def test_without_rewards_and_successes_both_warnings_say_what_to_give(command: Command) -> None:
    no_reward = Episode(np.zeros((7, 1)), np.full((6, 1), 0.1), np.zeros(6), False, True, False)
    save_demonstrations("d.npz", [no_reward] * 2)
    result = command(f"{SMALL} --demos d.npz --run-dir run")
    assert "my-success-is-never-seen); if all demonstrations succeed, give --demos-success all\n" in result.err
    assert "give --reward sparse, which rewards a success; if all demonstrations succeed, give --dem" in result.err


def test_only_demonstrations_of_a_file_may_count_as_successes(command: Command) -> None:
    line = "softflow-train --env two_routes --demos-success all --run-dir run"
    assert (
        "demos_success judges the demonstrations of demos, and there are none: give demos as well"
        in command(line).error()
    )


def test_what_follows_a_success_is_left_out_as_in_the_environment(command: Command) -> None:
    save("d.npz", [True, False])
    episodes = [replace(one, solved_at=SOLVED_AT) for one in load_demonstrations("d.npz")]
    save_demonstrations("solved.npz", episodes)
    result = command(f"{SMALL} --demos solved.npz --reward sparse --run-dir run")
    assert "solved.npz: 1 successful episodes went on for 2 steps, which are left out" in result.err
    assert rewards_of("run") == [[0, 0, 0, 1], [0] * 6]
    assert command(f"{SMALL} --demos solved.npz --run-dir whole").status == 0
    assert rewards_of("whole") == EXPECTED["dataset"][0]


@pytest.mark.parametrize(
    ("reward", "flags", "warned"),
    [
        (0.0, "--reward dataset", True),
        (0.5, "--reward dataset", False),
        (0.0, "--reward sparse", False),
        (0.0, "--reward steps", False),
    ],
)
def test_a_critic_without_demonstrated_rewards_is_told_of_sparse_ones(
    reward: float, flags: str, warned: bool, command: Command
) -> None:
    """An environment may say only in its info whether an episode is a success, and give no reward."""
    save("d.npz", [True, False, True], reward=reward)
    result = command(f"{SMALL} --demos d.npz {flags} --run-dir run")
    assert result.status == 0, result
    message = "all rewards of the demonstrations are 0, so after imitation nothing can improve the policy"
    assert (message in result.err) == warned
    assert not warned or "give --reward sparse, which rewards a success; see" in result.err


def test_imitation_needs_no_rewards(command: Command) -> None:
    save("d.npz", [True], reward=0.0)
    small = "--imitation.updates 2 --eval-episodes 0 --horizon 4 --flow-options.width 8"
    result = command(f"softflow-train --env tests/Line-v0 --algo imitation {small} --demos d.npz --run-dir run")
    assert result.status == 0 and "no reward to learn from" not in result.err, result
