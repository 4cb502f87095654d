"""The training loop, which runs the stages of any algorithm, from demonstrations to a policy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from softflow.algos.base import Algorithm, Stage
from softflow.console import note
from softflow.data import Episode
from softflow.errors import UserError
from softflow.training.checkpoint import as_arrays, as_tensors, load_training, save_policy, save_training
from softflow.training.config import RunConfig
from softflow.training.counts import Progress
from softflow.training.episode_measures import bias_of, measure_episodes, measure_likelihood
from softflow.training.episode_table import EpisodeRow
from softflow.training.evaluated import Evaluated
from softflow.training.experience import Experience, LocalExperience, explorer
from softflow.training.failures import EnvironmentErrors
from softflow.training.fleet import Crew, CrewFailed, Fleet
from softflow.training.frames import EncodedFrames
from softflow.training.held_out import HeldOut, MakeFilm
from softflow.training.interruption import Interrupted, SignalWatch
from softflow.training.logging import MetricLogger
from softflow.training.own_episodes import OwnEpisodes
from softflow.training.progress import StageProgress, portions, shown
from softflow.training.random_state import random_state, set_random_state
from softflow.training.replays import Replays
from softflow.training.robots import RobotExperience
from softflow.training.rollout import Rollout
from softflow.training.run_folder import RunFolder
from softflow.training.spool import Spool

TRAINING_SEEDS = 10_000_000
"""First seed of training episodes for the run's `seed` 0, and the spacing between the first seeds of further values."""


class Trainer:
    """Runs the stages of an algorithm.

    Args:
        algorithm: The algorithm.
        demonstrations: The episodes to learn from. Their statistics must be in the policy.
        environments: The environments for training (`softflow.training.vector.vectorize`).
        evaluation_environments: Separate environments, so that an evaluation does not disturb unfinished episodes.
        run_folder: The folder for all output.
        config: The settings of the run.
        mirror: A function that returns the mirror image of an own episode, which is added to the replay as well.
        elsewhere: Actors, or the folder of robots, that execute own episodes in place of `environments`.
        frames: Encodes images once, if the policy's encoder is frozen.
        held_out_demonstrations: Episodes from which nothing is learnt. Their likelihood is logged with each evaluation.
        film: Films held-out episodes of a policy, as a GIF, at each evaluation.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        demonstrations: Sequence[Episode],
        environments: VectorEnv[Any, Any, Any],
        evaluation_environments: VectorEnv[Any, Any, Any],
        run_folder: RunFolder,
        config: RunConfig,
        mirror: Callable[[Episode], Episode] | None = None,
        elsewhere: Crew | Spool | None = None,
        frames: EncodedFrames | None = None,
        held_out_demonstrations: Sequence[Episode] = (),
        film: MakeFilm | None = None,
    ) -> None:
        self.mirror, self.elsewhere, self.film = mirror, elsewhere, film
        self.algorithm, self.run_folder, self.config = algorithm, run_folder, config
        self.environments, self.held_out = environments, HeldOut(evaluation_environments, run_folder, config)
        self.frames, self._replays = frames, Replays(algorithm, demonstrations, config, frames)
        self.data = self._replays.data(held_out_demonstrations, run_folder)
        self.progress, self.environment_errors = Progress(), self._new_errors()
        self._experience: Experience | None = None
        self._own, self._signals = OwnEpisodes(demonstrations[0].layout), SignalWatch()
        self._logger: MetricLogger | None = None
        self._resume_at: tuple[int | None, int] = None, 0
        self._saved_at = 0.0

    # ---------------------------------------------------------------------------------------------------- the loop

    @property
    def has_finished(self) -> bool:
        """Whether all stages have ended."""
        return self.progress.ended or self.progress.stage >= len(self.algorithm.schedule())

    def run(self) -> list[Evaluated]:
        """Run all stages that are left. Return all evaluations.

        A checkpoint is saved before `Interrupted` or `CrewFailed` is raised. After other errors, the last checkpoint is
        an earlier one.

        Raises:
            Interrupted: SIGINT or SIGTERM was received. A resumed run continues exactly as this one would have.
            CrewFailed: No actor is left.
            UserError: The run folder cannot be written.
            EnvironmentFailed: An environment failed, and `on_env_error` does not allow the run to continue.
            FloatingPointError: A loss, gradient, weight or action is not finite.
        """
        stages = self.algorithm.schedule()
        with MetricLogger(self.run_folder, *self._resume_at) as self._logger, SignalWatch() as self._signals:
            try:
                if self._resume_at[0] is None:
                    self._save()
                while not self.has_finished:
                    self._run_stage(stages)
                    self._move_on(stages)
                    self._save()
            except (Interrupted, CrewFailed):
                self._save()
                raise
        return self.held_out.evaluations

    def _run_stage(self, stages: Sequence[Stage]) -> None:
        p = self.progress
        stage = stages[p.stage]
        if not p.begun:
            if p.stage:
                stages[p.stage - 1].end()
            stage.begin()
            p.begun = True
        self.data = self._replays.with_demonstrations(self.data, stage, self._check_signals)
        if stage.candidates is not None:
            self.algorithm.deployed.candidates = stage.candidates
        with StageProgress(stage.name, stage.total, initial=self.progress.done) as bar:
            if stage.acts:
                self._act_and_learn(stage, bar)
            else:
                self._learn(stage, bar)
        self._evaluate(stage, stage_ended=True)
        p.ended = True

    def _move_on(self, stages: Sequence[Stage]) -> None:
        """Enter the next stage if the current one has ended. Continue the last one if it is longer now."""
        p = self.progress
        if not p.ended:
            return
        if p.done < stages[p.stage].total:
            p.ended = False
            self.held_out.continue_stage()
        elif p.stage + 1 < len(stages):
            p.stage, p.begun, p.ended, p.done, p.evaluated = p.stage + 1, False, False, 0, 0
            self._experience = None if self._experience is None else self._experience.next_stage()
            self._own.clear()

    def _learn(self, stage: Stage, bar: StageProgress) -> None:
        p = self.progress
        while p.done < stage.updates:
            scalars = self._update(stage)
            p.done += 1
            if p.done % self.config.log_every == 0 or p.done == stage.updates:
                bar.update(p.done - bar.done, **shown(self._log(stage, scalars)))
            self._between_rounds()

    def _act_and_learn(self, stage: Stage, bar: StageProgress) -> None:
        p, config = self.progress, self.config
        if self._experience is None:
            self._experience = self._new_experience()
        start, steps_before = time.monotonic(), p.done
        while p.done < stage.environment_steps or p.updates_due(self._own.released):
            # A run that was interrupted during its updates first makes the rest of them.
            steps = 0 if p.updates_due(self._own.released) else self._act(stage)
            scalars: dict[str, torch.Tensor] = {}
            for counted in portions(steps, p.updates_due(self._own.released)):
                self._signals.check()
                scalars = self._update(stage)
                p.owed -= 1
                bar.update(counted)
            episodes = {"rollout/episodes": self._own.released, **self._own.scalars()}
            if config.on_env_error == "restart":
                episodes["rollout/env_errors"] = self.environment_errors.count
            episodes |= self._experience.scalars()
            episodes["time/fps"] = (p.done - steps_before) / (time.monotonic() - start)
            bar.update(p.done - bar.done, **shown(self._log(stage, {**scalars, **episodes})))
            self._between_rounds()

    def _act(self, stage: Stage) -> int:
        """Evaluate if it is time, then collect own steps, and return their number."""
        assert self._experience is not None
        p, every = self.progress, self.config.eval_every
        if p.done // every > p.evaluated // every:
            self._evaluate(stage)
            self._save()
        ended, steps = self._experience.collect(min(self.config.collect_steps, stage.environment_steps - p.done))
        with self.run_folder.writing():  # the replay may be on disk
            for episode in ended:
                self.data.online.add_episode(episode)
                if self.mirror is not None:
                    self.data.online.add_episode(self.mirror(episode))
        self.algorithm.receive(self._own.add(ended, self._experience.running_seeds))
        p.done += steps
        p.steps += steps
        self._record(stage, ended, "own")
        p.owed += steps * stage.updates_per_step
        return steps

    def _between_rounds(self) -> None:
        """Handle signals, and save a checkpoint if one is due."""
        self._signals.check()
        if time.monotonic() - self._saved_at >= 60 * self.config.save_minutes:
            self._save()

    def _check_signals(self) -> None:
        self._signals.check()  # of the present `run`, which may be later than the experience

    def _new_experience(self) -> Experience:
        algorithm, seeds, errors = self.algorithm, self._seeds(), self.environment_errors
        if self.elsewhere is None:
            explore = explorer(algorithm, self.config.device)
            return LocalExperience(Rollout(self.environments, seeds, errors, algorithm.assign), explore)
        every = lambda: self.progress.updates, self.config.publish_every
        if isinstance(self.elsewhere, Crew):
            return Fleet(self.elsewhere, seeds, algorithm, *every, errors, self._check_signals)
        task, reward = algorithm.deployed.task, self.config.reward
        assert task is not None, "robots record its names and units"
        return RobotExperience(self.elsewhere, task, reward, seeds, algorithm, *every, self._check_signals)

    def _seeds(self) -> Iterator[int]:
        while True:
            self.progress.episodes += 1
            yield TRAINING_SEEDS * (1 + self.config.seed) + self.progress.episodes - 1

    def _update(self, stage: Stage) -> dict[str, torch.Tensor]:
        p = self.progress
        try:
            scalars = stage.update(self.data, p.fraction(stage.total, stage.updates_per_step))
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} at step {p.done} of the stage {stage.name!r}, update {p.updates + 1} of the run: training "
                "diverged; a smaller learning rate or stronger regularisation may help"
            ) from error
        p.updates += 1
        return scalars

    # ----------------------------------------------------------------------------------------- acting and evaluating

    def _new_errors(self) -> EnvironmentErrors:
        return EnvironmentErrors(self.config.on_env_error, self.run_folder.path / "environment_errors.txt")

    def _evaluate(self, stage: Stage, stage_ended: bool = False) -> None:
        assert self._logger is not None
        done, deployed = self.progress.done, self.algorithm.deployed
        if not self.config.eval_episodes:
            if self.data.held_out is not None:
                self._logger.log(done, stage.name, measure_likelihood(deployed.policy, self.data, self.config.device))
            return
        self._require_finite_weights()
        ways = self._new_errors, self._signals.check  # errors are counted separately from those in training
        scalars, episodes = self.held_out.evaluate(self.algorithm, stage, done, stage_ended, *ways)
        self.progress.evaluated = done
        scalars |= bias_of(self._record(stage, episodes, "held_out"))
        scalars |= measure_likelihood(deployed.policy, self.data, self.config.device)
        self._logger.log(done, stage.name, scalars)
        if self.film is not None:
            self._logger.log_film(done, stage.name, self.film(deployed))

    def _record(self, stage: Stage, episodes: Sequence[Episode], source: str) -> list[EpisodeRow]:
        """Write episodes that have ended to `episodes.csv`, and return their rows."""
        assert self._logger is not None
        where = stage.name, self.progress.done, source, self.config.device
        values = "critic/q_mean" in self._logger.names  # the critic has learnt
        rows = measure_episodes(self.algorithm, self.data, episodes, *where, values)
        self._logger.log_episodes(rows)
        return rows

    def _log(self, stage: Stage, scalars: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
        numbers = {name: float(value) for name, value in {**scalars, **stage.diagnose(self.data)}.items()}
        numbers["train/n_updates"] = self.progress.updates
        assert self._logger is not None
        self._logger.log(self.progress.done, stage.name, numbers)
        return numbers

    # -------------------------------------------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        assert self._logger is not None
        self._require_finite_weights()
        state = {
            "algorithm": self.algorithm.state_dict(),
            "progress": asdict(self.progress),
            "rollout": None if self._experience is None else as_tensors(self._experience.state_dict()),
            "own_episodes": as_tensors(self._own.state_dict()),
            "environment_errors": self.environment_errors.count,
            "metrics_offset": self._logger.offset(),
            "episodes_offset": self._logger.episodes_offset(),
            "frames": None if self.frames is None else self.frames.digest,
            "evaluations": self.held_out.state(),
            "data_rng": json.dumps(self.data.rng.bit_generator.state),
            "random": random_state(self.config.device),
        }

        def write(folder: Path) -> None:
            save_policy(folder, self.algorithm.deployed)
            save_training(folder, state, self.data.online)

        self.run_folder.save_checkpoint(self.progress.updates, write)
        self.held_out.checkpoint_saved()
        if self._experience is not None:
            self._experience.checkpoint_saved()
        self._saved_at = time.monotonic()

    def _require_finite_weights(self) -> None:
        """Raise `FloatingPointError` before weights that are not finite are saved in a checkpoint."""
        for name, weight in self.algorithm.named_weights():
            if not weight.isfinite().all():
                raise FloatingPointError(f"the weight {name} is not finite after update {self.progress.updates}")

    def resume(self) -> None:
        """Continue from the last checkpoint, in the middle of the episodes that were in progress.

        Episodes restart if their environment cannot restore its state. A finished run continues if its last stage is
        longer now.
        """
        state = load_training(self.run_folder.last_checkpoint(), self.data.online)
        self.algorithm.load_state_dict(state["algorithm"])
        if state.get("frames") != (None if self.frames is None else self.frames.digest):
            raise UserError("the replay has features of another encoder, or of other preprocessing: start a new run")
        p = self.progress = Progress(**state["progress"])
        self.environment_errors.count = state.get("environment_errors", 0)  # absent in older checkpoints
        self._resume_at = state["metrics_offset"], state.get("episodes_offset", 0)  # absent in older checkpoints
        if "own_episodes" in state:
            self._own.load_state_dict(as_arrays(state["own_episodes"]))
        else:  # an older checkpoint
            released = int(self.data.online.steps > 0)
            self._own.load_state_dict({"released": released, "recent": state["recent"], "held": []})
            if self.data.online.steps:
                note(
                    "an earlier version saved this run: its own episodes so far are imitated as they were executed, "
                    "later ones as the policy proposed them"
                )
        self.data.rng.bit_generator.state = json.loads(state["data_rng"])
        stages = self.algorithm.schedule()
        self.held_out.load_state(state["evaluations"], stages)
        if p.stage == len(stages) > 0:  # older versions counted the end of the last stage as one more stage
            p.stage, p.begun, p.ended = p.stage - 1, True, True
            p.done = p.evaluated = self.held_out.evaluations[-1].done
        self._move_on(stages)
        if state["rollout"] is not None and not p.ended:
            self._experience = self._new_experience()
            if restarted := self._experience.load_state_dict(as_arrays(state["rollout"])):
                note(f"{restarted} unfinished episodes are restarted, because {self._experience.why_anew}")
        set_random_state(state["random"], self.config.device)
