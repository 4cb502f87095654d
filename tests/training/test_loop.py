"""The training loop with a toy environment and a tiny SOFT-FLOW: stages, budgets, records, interruption, resuming."""

from __future__ import annotations

import csv
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softflow.algos import SoftFlow, SoftFlowConfig, Stage
from softflow.data import Episode
from softflow.training.checkpoint import load_policy
from softflow.training.config import RunConfig
from softflow.training.evaluation import HELD_OUT_SEEDS
from softflow.training.interruption import Interrupted
from softflow.training.loop import TRAINING_SEEDS, Trainer
from softflow.training.run_folder import RunFolder
from tests.training.vectors import side_by_side

LENGTH = 10  # of an episode
IMITATION, WARMUP, OFFLINE = 10, 6, 8  # updates


def make_config(online_steps: int) -> SoftFlowConfig:
    config = SoftFlowConfig(
        flow="coupling",
        flow_options={"layers": 2, "width": 8, "components": 2},
        horizon=4,
        n_action_steps=2,
        batch_size=16,
        critic_width=8,
        candidates=3,
        ema_rate=0.1,
    )
    config.imitation.updates, config.warmup.updates, config.offline.updates = IMITATION, WARMUP, OFFLINE
    config.online.steps, config.online.updates_per_step, config.online.critic_updates = online_steps, 0.25, 2
    for stage in (config.offline, config.online):
        stage.q_weight = stage.kl_weight = stage.nll_weight = 1.0
    return config


def demonstration(seed: int) -> Episode:
    observation = np.stack([np.full(LENGTH + 1, seed), np.arange(LENGTH + 1)], 1)
    action = np.random.default_rng(seed).uniform(-1, 1, (LENGTH, 1))
    return Episode(observation, action, np.ones(LENGTH), True, False, True)


class Run:
    """A run of its own from beginning to end; `counting` is the toy environment's class."""

    def __init__(self, counting: Any, path: Path, online_steps: int = 120, **settings: Any) -> None:
        self.path, self.method = path, make_config(online_steps)
        self.config = RunConfig(
            **{"num_envs": 3, "eval_episodes": 4, "collect_steps": 10, "eval_every": 60, "log_every": 4} | settings
        )
        self.environments = [counting(lambda seed: LENGTH) for _ in range(3)]
        self.held_out = [counting(lambda seed: LENGTH) for _ in range(2)]

    def trainer(self, resume: bool = False, weights_seed: int = 0) -> Trainer:
        torch.manual_seed(weights_seed)
        algorithm = SoftFlow(self.method, 2, 1)
        algorithm.fit_normalizer(torch.tensor([5.0, 2.0]), torch.tensor([3.0, 1.5]))
        algorithm.fit_actions([demonstration(seed) for seed in range(3)])
        if resume:
            folder = RunFolder(self.path)
        else:
            folder = RunFolder.create(self.path.parent, "toy", "softflow", seed=0, run_dir=self.path)
        demonstrations = [demonstration(seed) for seed in range(6)]
        vectors = (side_by_side(envs, algorithm.n_action_steps) for envs in (self.environments, self.held_out))
        trainer = Trainer(algorithm, demonstrations, *vectors, folder, self.config)
        if resume:
            trainer.resume()
        return trainer

    def metrics(self) -> list[tuple[str, int, str, float]]:
        with (self.path / "metrics.csv").open(newline="") as file:
            return [(row["stage"], int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]

    def weights(self) -> dict[str, torch.Tensor]:
        return load_policy(RunFolder(self.path).last_checkpoint()).state_dict()


def before_updates(algorithm: SoftFlow, act: Callable[[], Any]) -> None:
    """Call `act` before each update of any stage."""
    schedule = algorithm.schedule

    def calling(stage: Stage) -> Stage:
        return replace(stage, update=lambda *arguments: (act(), stage.update(*arguments))[1])

    algorithm.schedule = lambda: list(map(calling, schedule()))  # type: ignore[method-assign]


def interrupt_at(algorithm: SoftFlow, update: int, times: int = 1) -> None:
    """Press ^C `times` times in the given update, counted from 0."""
    calls = Counter[str]()

    def press() -> None:
        calls["update"] += 1
        if calls["update"] == update + 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    before_updates(algorithm, press)


@pytest.fixture
def run(counting: Any, tmp_path: Path) -> Run:
    return Run(counting, tmp_path / "run")


def test_stages_run_in_order_and_are_evaluated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = run.trainer()
    evaluations = trainer.run()
    online = trainer.progress.steps
    assert [(one.stage, one.done) for one in evaluations] == [
        ("imitation", IMITATION),
        ("critic_warmup", WARMUP),
        ("offline", OFFLINE),
        ("online", pytest.approx(60, abs=15)),  # each time 60 steps are full, looked at after each bout of 10
        ("online", online),
    ]
    for result in (one.result for one in evaluations):
        assert (result.episodes, result.success_rate, result.mean_return) == (4, 0.5, 55.0)
    for env in run.held_out:
        assert set(env.seeds) <= set(range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + 4))
    assert sum(len(env.seeds) for env in run.held_out) == 4 * (
        len(evaluations) + 3
    )  # the policy in training, and 2 or 3 chunks
    lines = [line for line in capsys.readouterr().out.splitlines() if "on 4 held-out" in line]
    assert lines[0].startswith(f"imitation {IMITATION}: success 0.50 [")


def test_budgets_are_primitive_steps(run: Run) -> None:
    trainer = run.trainer()
    trainer.run()
    steps = trainer.progress.steps
    assert 120 <= steps < 120 + 3 * 2  # less than one more chunk in every environment
    assert steps == sum(env.total_steps for env in run.environments)
    assert trainer.progress.updates == IMITATION + WARMUP + OFFLINE + steps // 4
    started = sorted(seed for env in run.environments for seed in env.seeds)
    assert started == list(range(TRAINING_SEEDS, TRAINING_SEEDS + len(started)))  # each once
    ended = sum(env.total_steps // LENGTH for env in run.environments)
    assert trainer.progress.episodes == len(started) and trainer.data.online.steps == ended * LENGTH


def test_updates_wait_for_the_first_own_episode_and_are_made_up_for(counting: Any, tmp_path: Path) -> None:
    run = Run(counting, tmp_path / "run", online_steps=40, collect_steps=3, eval_every=1000)
    trainer = run.trainer()
    trainer.run()
    first = min(step for stage, step, name, _ in run.metrics() if stage == "online" and name == "train/critic_loss")
    assert first > LENGTH
    assert trainer.progress.updates == IMITATION + WARMUP + OFFLINE + trainer.progress.steps // 4


def test_episodes_are_received_with_their_decisions_before_the_updates_they_pay_for(run: Run) -> None:
    trainer = run.trainer()
    trainer.mirror = lambda episode: episode  # what the replay has twice is received once
    algorithm, calls, received = trainer.algorithm, [], []
    explore, receive = algorithm.explore, algorithm.receive

    def receive_(episodes: list[Episode]) -> None:
        calls.append("receive")
        assert trainer.data.online.steps == 2 * LENGTH * (len(received) + len(episodes))
        received.extend(episodes)
        receive(episodes)

    before_updates(algorithm, lambda: calls.append("update"))
    algorithm.explore = lambda seen, arms: explore(seen, arms)._replace(record=seen)  # type: ignore
    algorithm.receive = receive_  # type: ignore[method-assign]
    trainer.run()
    offline = IMITATION + WARMUP + OFFLINE
    assert calls[:offline] == ["update"] * offline and calls[offline] == "receive"
    assert 1 < calls.count("receive") < trainer.progress.steps / 10 + 1  # once for each bout
    assert len(received) == sum(env.total_steps // LENGTH for env in run.environments) > 0
    for episode in received:
        np.testing.assert_array_equal(episode.decision, episode.observation[:-1:2])


def test_metrics_have_one_row_a_scalar(run: Run) -> None:
    run.trainer().run()
    rows = run.metrics()
    assert len({row[:3] for row in rows}) == len(rows)
    names = {stage: {name for s, _, name, _ in rows if s == stage} for stage, *_ in rows}
    assert list(names) == ["imitation", "critic_warmup", "offline", "online"]
    evaluated = {"eval/success_rate", "eval/mean_reward", "train/n_updates"}
    assert all(evaluated <= stage for stage in names.values())
    assert {"flow/nll", "train/actor_loss"} <= names["imitation"] and "train/critic_loss" not in names["imitation"]
    assert "train/critic_loss" in names["critic_warmup"] and "train/actor_loss" not in names["critic_warmup"]
    assert {"train/critic_loss", "train/actor_loss", "flow/kl_to_imitation", "critic/q_mean"} <= names["offline"]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate"} <= names["online"] - names["offline"]
    assert not any(name.startswith("time/") for name in names["online"])
    logged = [step for stage, step, name, _ in rows if (stage, name) == ("imitation", "train/actor_loss")]
    assert logged == [4, 8, 10]  # every fourth, and the last
    values = {row[:3]: row[3] for row in rows}
    assert values["imitation", 4, "train/n_updates"] == 4
    assert values["critic_warmup", 4, "train/n_updates"] == IMITATION + 4
    assert values["online", max(step for stage, step, *_ in rows if stage == "online"), "rollout/ep_len_mean"] == LENGTH


def test_the_same_seed_writes_the_same_metrics(counting: Any, tmp_path: Path) -> None:
    written = []
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        run = Run(counting, tmp_path / name, seed=seed)
        run.trainer().run()
        written.append((run.path / "metrics.csv").read_bytes())
    assert written[0] == written[1] != written[2]


def test_the_last_checkpoint_acts_as_the_policy_does(run: Run) -> None:
    trainer = run.trainer()
    trainer.run()
    deployed = trainer.algorithm.deployed
    loaded = load_policy(RunFolder(run.path).last_checkpoint())
    actions = []
    for policy in (deployed, loaded):
        torch.manual_seed(1)
        actions.append(policy.act(torch.tensor([[3.0, 2.0], [4.0, 0.0]])))
    assert torch.equal(*actions)


def assert_the_same_run(parted: Run, whole: Run) -> None:
    assert (parted.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    expected, weights = whole.weights(), parted.weights()
    assert expected.keys() == weights.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_a_second_interrupt_gives_up_at_once(run: Run) -> None:
    trainer = run.trainer()
    interrupt_at(trainer.algorithm, IMITATION + 3, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.run()
    assert caught.type is KeyboardInterrupt and trainer.progress.updates == IMITATION + 3
    resumed = run.trainer(resume=True)
    assert resumed.progress.updates == IMITATION  # the end of the stage before
    resumed.run()


@pytest.mark.parametrize(("save_minutes", "extra"), [(0.0, 100), (1000.0, 0)])
def test_checkpoints_are_saved_as_time_passes(
    save_minutes: float, extra: int, counting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = list[int](), RunFolder.save_checkpoint

    def note(folder: RunFolder, step: int, write: Any) -> Path:
        saved.append(step)
        return save(folder, step, write)

    monkeypatch.setattr(RunFolder, "save_checkpoint", note)
    trainer = Run(counting, tmp_path / "run", save_minutes=save_minutes).trainer()
    trainer.run()
    stages_and_evaluations = len(trainer.held_out.evaluations) + 1
    rounds = IMITATION + WARMUP + OFFLINE + 10 if extra else 0
    assert len(saved) == pytest.approx(stages_and_evaluations + rounds, abs=2 if extra else 0)
    assert saved == sorted(saved) and saved[0] == 0


def test_where_environments_cannot_be_saved_their_episodes_are_begun_anew(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = run.trainer()
    interrupt_at(trainer.algorithm, IMITATION + WARMUP + OFFLINE + 5)
    with pytest.raises(Interrupted):
        trainer.run()
    before, unfinished = trainer.progress, [env.seeds[-1] for env in run.environments if env.running]
    episodes, steps = before.episodes, before.steps
    assert 0 < before.done < 120 and unfinished
    resumed = run.trainer(resume=True)
    told = re.findall(r"(\d) unfinished episodes are restarted, because", capsys.readouterr().out)
    assert told == [str(len(unfinished))]
    assert [env.seeds[-1] for env in run.environments if env.running] == unfinished
    assert all(env.steps == 0 for env in run.environments if env.running)
    assert resumed.progress == before
    assert resumed.data.online.steps == trainer.data.online.steps > 0
    evaluations = resumed.run()
    assert [one.stage for one in evaluations] == ["imitation", "critic_warmup", "offline", "online", "online"]
    assert 120 <= resumed.progress.steps < 126 and resumed.progress.steps > steps
    assert resumed.progress.episodes > episodes
    assert resumed.progress.updates == IMITATION + WARMUP + OFFLINE + resumed.progress.steps // 4
    rows = run.metrics()
    assert len({row[:3] for row in rows}) == len(rows)


def test_a_finished_run_is_resumed_without_harm(run: Run) -> None:
    evaluations = run.trainer().run()
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert run.trainer(resume=True).run() == evaluations
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_divergence_stops_the_run(run: Run) -> None:
    trainer = run.trainer()
    diverging = {"train/actor_loss": torch.tensor(torch.nan)}
    stages = [replace(stage, update=lambda *_: diverging) for stage in trainer.algorithm.schedule()]
    trainer.algorithm.schedule = lambda: stages  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="train/actor_loss is nan at step 4 of the stage 'imitation'"):
        trainer.run()


def test_without_held_out_episodes_nothing_is_evaluated_and_the_last_policy_deploys(run: Run) -> None:
    run.config.eval_episodes = 0
    trainer = run.trainer()
    assert trainer.run() == []
    folder = trainer.run_folder
    assert folder.best_checkpoint() == folder.last_checkpoint()
    assert not folder.policies()
