"""The algorithm of a run before its training: made, given its base and corrections, and fitted to demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softflow.algos import Algorithm
from softflow.data import Corrections, Episode, observation_statistics, some_observations
from softflow.data.takeovers import require_chunks
from softflow.envs import NO_ENVIRONMENT
from softflow.errors import UserError
from softflow.runs.assembly import give, make_algorithm, with_saved_weights
from softflow.runs.config import TrainConfig
from softflow.runs.inputs import Inputs
from softflow.training.config import RunConfig
from softflow.training.frames import EncodedFrames, encoded_frames
from softflow.training.run_folder import RunFolder


def algorithm_for(config: TrainConfig[Any], inputs: Inputs, folder: RunFolder) -> Algorithm:
    """Make the algorithm of a run, and give it the policy of its base.

    Raises:
        UserError: A setting is invalid, the algorithm refuses the base, it acts and nothing can act, or nothing is
            worth imitating.
    """
    run = config.run
    loads_weights = run.resume or inputs.base_name is not None
    made_of = with_saved_weights(config) if loads_weights else config
    algorithm = make_algorithm(made_of, *inputs.sizes, folder.last_checkpoint() if run.resume else None)
    if run.env == NO_ENVIRONMENT and not run.robots:
        _require_no_steps(algorithm)
    if inputs.base is not None:
        give(algorithm.load_base, inputs.base.policy.policy, f"base {inputs.base_name}")
    if algorithm.imitates:
        require_chunks(inputs.demonstrations, inputs.imitated.rule, algorithm.deployed.policy.horizon)
    return algorithm


def frames_for(run: RunConfig, inputs: Inputs, algorithm: Algorithm, folder: RunFolder) -> EncodedFrames | None:
    """Return what encodes images once. None if no frozen network reads images, or if there are corrections."""
    if inputs.corrections is not None:  # their own replays hold frames as they are
        return None
    cache = Path(run.frame_cache).absolute() if run.frame_cache is not None else folder.path / "features"
    return encoded_frames(algorithm.deployed.policy, run.device, cache)


def fit_to_inputs(algorithm: Algorithm, inputs: Inputs, run: RunConfig) -> None:
    """Give an algorithm its corrections, and fit its normalisation to the demonstrations.

    Raises:
        UserError: The algorithm refuses the corrections, or its flow has no density at the demonstrated actions.
    """
    if isinstance(inputs.corrections, Corrections):
        give(algorithm.load_corrections, inputs.corrections, inputs.corrections_name)
    elif inputs.corrections is not None:
        give(algorithm.load_takeovers, inputs.with_images(inputs.corrections.episodes), inputs.corrections_name)
    mean, std = observation_statistics(inputs.learned_from)
    if inputs.base_name is None or inputs.has_foreign_base:  # the policy of a run keeps its own statistics
        algorithm.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))
        if inputs.layout is not None:
            algorithm.fit_pictures(torch.as_tensor(some_observations(inputs.learned_from), device=run.device))
        algorithm.fit_actions(inputs.learned_from)
    if inputs.base is not None:
        algorithm.fit_critics()
    if not run.resume:
        require_density(algorithm, inputs.demonstrations)


@torch.no_grad()
def require_density(algorithm: Algorithm, demonstrations: Sequence[Episode]) -> None:
    """Raise `UserError` if an algorithm that imitates has a flow without density at the extremes of the actions."""
    if not algorithm.imitates:
        return
    policy = algorithm.deployed.policy
    actions = np.concatenate([episode.action for episode in demonstrations])
    extremes = torch.as_tensor(np.stack([actions.min(0), actions.max(0)]), dtype=torch.float32)
    chunks = extremes[:, None].expand(-1, policy.horizon, -1).to(next(policy.parameters()))
    try:
        policy.flow.log_prob(chunks, chunks.new_zeros(2, policy.context_dim))
    except ValueError as error:
        raise UserError(f"flow {policy.flow_name!r} cannot imitate these demonstrations: {error}") from error


def _require_no_steps(algorithm: Algorithm) -> None:
    """Raise `UserError` if a stage of a run without an environment acts."""
    acting = [stage.name for stage in algorithm.schedule() if stage.acts]
    if acting:
        raise UserError(
            f"the stages {', '.join(acting)} act, and there is no environment to act in (env is none): use a method "
            "that does not act, such as --algo imitation, or let robots act, --robots FOLDER"
        )
