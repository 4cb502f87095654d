"""Films of a policy in the environment of its run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from softflow.data import observation_tensor
from softflow.errors import UserError
from softflow.policies import BestOfN
from softflow.runs.assembly import make_environment, require_fit
from softflow.runs.video import (
    LARGEST_WIDTHS,
    Choice,
    Film,
    columns_of,
    film_episode,
    pillow_image,
    require_pictures,
    write_films,
)
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import RunConfig
from softflow.training.evaluation import HELD_OUT_SEEDS
from softflow.training.random_state import random_state_kept
from softflow.training.success import SuccessRule


def film_policy(
    policy: BestOfN,
    settings: RunConfig,
    run: str,
    seeds: Iterable[int],
    width: int,
    caption: str = "",
    greedy: bool = False,
    valued_by: BestOfN | None = None,
    shown: str | None = None,
) -> Iterator[Film]:
    """Film one episode for each seed, one after another. torch is seeded before each of them.

    Args:
        policy: The policy.
        settings: The settings of its run, which say what its environment is.
        run: The name of the run, for errors.
        seeds: The seeds of the episodes.
        width: The largest width of a picture in pixels.
        caption: What stands before the seed in the films.
        greedy: Whether to execute the most likely chunk instead of sampled candidates.
        valued_by: The policy whose critic values the chunks. By default the policy's own does.
        shown: The name of a number in the environment's `info` that is shown as well.

    Raises:
        UserError: The environment renders no pictures, does not report the number, or does not fit the policy.
        EnvironmentFailed: The environment raised an error.
    """
    environment = _rendering(settings)
    device = next(policy.parameters()).device
    valuer = valued_by or policy

    @torch.inference_mode()
    def choose(observation: np.ndarray) -> Choice:
        seen = observation_tensor(observation, device)
        if greedy:
            chunk = policy.policy.greedy(seen)
            actions = chunk[:, : policy.n_action_steps]
        else:
            actions, chunk = policy.decide(seen)
        value = None
        if valuer.critic is not None:
            valued = chunk[:, : valuer.critic.horizon].clamp(-1, 1)
            value = float(valuer.critic(valuer.policy.features(seen), valued).mean())
        return Choice(actions[0].cpu().numpy(), value)

    with contextlib.closing(environment):
        require_fit(policy, environment, run)
        for seed in seeds:
            torch.manual_seed(seed)
            title = f"{caption}{', ' if caption else ''}seed {seed}"
            yield film_episode(environment, choose, seed, title, width, shown)


class EvaluationFilms:
    """Films the first held-out episodes of policies of a run.

    Args:
        settings: The settings of the run.
        run: The name of the run, for errors.

    Raises:
        UserError: The environment does not render, or Pillow is not installed.
    """

    def __init__(self, settings: RunConfig, run: str) -> None:
        self.settings, self.run = settings, run
        pillow_image()
        _rendering(settings).close()

    def try_out(self) -> None:
        """Render a picture. From then on, processes that render cannot be forked from this one.

        Raises:
            UserError: The environment cannot render here.
        """
        with contextlib.closing(_rendering(self.settings)) as environment:
            require_pictures(environment, HELD_OUT_SEEDS)

    def __call__(self, policy: BestOfN) -> bytes:
        """Return a GIF of the films, side by side. The random states are left as they were.

        Raises:
            EnvironmentFailed: The environment raised an error.
        """
        number = self.settings.eval_films
        columns = columns_of(number)
        width, seeds = LARGEST_WIDTHS[".gif"] // columns, range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + number)
        with random_state_kept(self.settings.device), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "films.gif")
            write_films(path, list(film_policy(policy, self.settings, self.run, seeds, width)), columns)
            return path.read_bytes()


def _rendering(settings: RunConfig) -> CheckedEnvironment:
    try:
        environment = make_environment(settings, render_mode="rgb_array")
    except UserError as error:
        raise UserError(f"there is no film, because the environment does not render: {error}") from error
    return CheckedEnvironment(environment, SuccessRule(settings.success))
