"""What a run says at its start about its observations and actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from flows import NormalizedFlow
from softflow.algos import Algorithm
from softflow.algos.settings import ChunkCriticConfig, PolicyConfig
from softflow.console import note, remark
from softflow.data import Episode, action_statistics, constant_dimensions, describe_reward
from softflow.data.summary import count
from softflow.data.takeovers import describe_takeovers
from softflow.envs import NO_ENVIRONMENT, describe_spaces, name_actions, name_dimensions
from softflow.runs.config import TrainConfig
from softflow.runs.inputs import Inputs
from softflow.training.frames import EncodedFrames
from softflow.training.replays import read_from
from softflow.training.success import FEW, NONE_SUCCEEDS

NO_REWARD = (
    "warning: there is no reward to learn from: {}, so after imitation nothing can improve the policy, unless own "
    "episodes happen to earn some; stop (^C), and {}; see docs/how-to/rewards.md"
)
"""No refusal, because own episodes may succeed."""
IF_ALL_SUCCEED = "if all demonstrations succeed, give --demos-success all"
FEW_EPISODES = 300
"""With fewer own episodes, few new policies go on trial."""


def announce(
    config: TrainConfig[Any],
    folder: str,
    inputs: Inputs,
    algorithm: Algorithm,
    environments: VectorEnv[Any, Any, Any],
    frames: EncodedFrames | None,
) -> None:
    """Print what a run learns from and what is made of it, one thing per line.

    Args:
        config: The settings.
        folder: The folder of the run as its user calls it.
        inputs: What the run learns from.
        algorithm: The algorithm, fitted to the inputs. Its policy knows its task.
        environments: Environments of the run.
        frames: Encodes images once, if the policy's encoder is frozen.

    Raises:
        UserError: The disk has no room for what `frames` stores.
    """
    run, demonstrations, policy = config.run, inputs.demonstrations, algorithm.deployed
    number, successes = len(demonstrations), sum(episode.is_success for episode in demonstrations)
    note(f"{count(number, 'demonstration')}, success {successes / number:.2f}; run folder {folder}")
    if not successes and not run.resume:
        remark(NONE_SUCCEEDS + f"; {IF_ALL_SUCCEED}" * (run.demos is not None))
    elif successes < min(FEW, number) and not run.resume:
        remark(f"warning: only {successes} of {number} demonstrations succeed: record more successes")
    shorter = sum(len(episode) < policy.policy.horizon for episode in demonstrations)
    if shorter > number / 2 and not run.resume:
        remark(
            f"warning: {shorter} of {number} demonstrations are shorter than a chunk of {policy.policy.horizon} steps, "
            "which repeats their last action: choose a smaller --horizon"
        )
    note(describe_reward(run.reward, demonstrations, run.env != NO_ENVIRONMENT))
    if (unrewarded := why_no_reward(config, demonstrations, algorithm)) is not None and not run.resume:
        remark(unrewarded)
    if algorithm.imitates:
        note(inputs.imitated.describe(demonstrations))
        if (taken_over := describe_takeovers(demonstrations, policy.policy.horizon)) is not None:
            note(taken_over)
    if (imitating := how_much_is_imitated(config.method, inputs.imitated_steps)) is not None:
        note(imitating)
    if (discounting := how_far_ahead(config.method)) is not None:
        note(discounting)
    note(what_is_seen(environments, inputs.learned_from))
    if (acted := how_much_is_acted(algorithm, demonstrations)) is not None:
        note(acted)
    if frames is not None:
        assert policy.task is not None
        number = sum(len(episode) + 1 for episode in inputs.learned_from)
        note(frames.announce(number, policy.task.row_size, read_from(algorithm)))
    if inputs.base is not None:
        skipped = all(stage.name != "imitation" for stage in algorithm.schedule())
        what = "takes the place of imitation, which is skipped" if skipped else "is trained further"
        note(f"base {inputs.base_name}: its policy {what}")
        inputs.base.say_choice()
    elif inputs.has_foreign_base:
        note(f"base {inputs.base_name}: frozen; every checkpoint compares its SHA-256 with that at the start")
    elif normalizes_actions(algorithm):
        note(what_is_normalized(environments, inputs.learned_from))
    if isinstance(config.method, ChunkCriticConfig) and any(one.name != "imitation" for one in algorithm.schedule()):
        note(how_rewards_are_divided(inputs.learned_from))


def why_no_reward(config: TrainConfig[Any], demonstrations: Sequence[Episode], algorithm: Algorithm) -> str | None:
    """Return a warning if the method learns from rewards, and demonstrations have the same one at all steps."""
    run, stages = config.run, algorithm.schedule()
    has_critic = isinstance(config.method, ChunkCriticConfig) and any(stage.acts for stage in stages)
    all_fail = not any(episode.is_success for episode in demonstrations)
    if run.reward != "dataset" and all_fail and any(stage.name != "imitation" for stage in stages):
        why = f"with --reward {run.reward}, all steps of demonstrations without a success have the same reward"
        instead = "give demonstrations that are marked as successes"
    elif run.reward == "dataset" and has_critic and not any(episode.reward.any() for episode in demonstrations):
        why, instead = "all rewards of the demonstrations are 0", "give --reward sparse, which rewards a success"
    else:
        return None
    return NO_REWARD.format(why, instead + f"; {IF_ALL_SUCCEED}" * (run.demos is not None and all_fail))


def what_is_seen(environments: VectorEnv[Any, Any, Any], learned_from: Sequence[Episode]) -> str:
    """Describe how observations and actions are interpreted, and which dimensions are not scaled."""
    constant, described = constant_dimensions(learned_from), describe_spaces(environments)
    if constant.any():
        described += (
            f"\nconstant in the demonstrations: observation dimensions {name_dimensions(environments, constant)}; "
            "they are centred, not scaled"
        )
    return described


def normalizes_actions(algorithm: Algorithm) -> bool:
    """Return whether the policy that deploys normalises actions."""
    return any(isinstance(module, NormalizedFlow) for module in algorithm.deployed.modules())


def what_is_normalized(environments: VectorEnv[Any, Any, Any], learned_from: Sequence[Episode]) -> str:
    """Describe in one line the scales of the actions, and which dimensions are constant or take few values."""
    statistics = action_statistics(learned_from)
    described = f"actions are normalised by scales of {statistics.scale.min():.2g} to {statistics.scale.max():.2g}"
    for what, chosen in (
        ("constant dimensions", statistics.constant),
        ("dimensions with few values", statistics.few_valued),
    ):
        if chosen.any():
            names = name_actions(environments, chosen)  # only indices if the action has one part
            described += f"; {what}: {names if '[' in names else f'action[{names}]'}"
    return described


def how_rewards_are_divided(learned_from: Sequence[Episode]) -> str:
    """Say by what the critic divides rewards."""
    largest = max(float(np.abs(np.cumsum(episode.reward[::-1])).max()) for episode in learned_from)
    if not largest:
        return "demonstrations have no rewards"
    return f"the critic divides rewards by {largest:.3g}, the largest absolute return of a demonstration"


def how_much_is_imitated(method: Any, steps: int) -> str | None:
    """Say how often imitation samples each of the steps worth imitating. None if there is no imitation from scratch."""
    if not isinstance(method, PolicyConfig) or not steps or not method.imitation_updates:
        return None
    updates = method.imitation_updates
    times = updates * method.batch_size / steps
    return f"imitation makes {updates:,} updates, so each of these steps is sampled about {times:,.0f} times"


def how_far_ahead(method: Any) -> str | None:
    """Say after how many steps a reward counts half. None if there is no critic."""
    if not isinstance(method, ChunkCriticConfig) or not 0 < method.step_discount < 1:
        return None
    half = math.log(0.5) / math.log(method.step_discount)
    return f"discount {method.step_discount:.4g} per step: a reward that is {half:.0f} steps ahead counts half"


def how_much_is_acted(algorithm: Algorithm, demonstrations: Sequence[Episode]) -> str | None:
    """Say how many own episodes a run has if they are as long as demonstrations. None if the method does not act."""
    steps = sum(stage.environment_steps for stage in algorithm.schedule())
    if not steps:
        return None
    episodes = steps / np.mean([len(episode) for episode in demonstrations])
    text = f"{steps:,} steps are about {episodes:,.0f} own episodes, if they last as long as the demonstrations"
    if episodes >= FEW_EPISODES:
        return text
    return f"{text}; fewer than {FEW_EPISODES} are often too few: consider more steps"
