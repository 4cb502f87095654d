"""The seam between two chunks under an inference delay: how a new chunk continues the one that is being executed.

While a chunk is computed, the robot executes `delay` more actions of the previous one. They are committed: whatever is
chosen, the new chunk begins with them. The strategies differ in what follows.

Shapes: B batch, n candidates, O observation dim, H horizon, L remaining actions, A action dim, d delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from softflow.policies.best_of_n import BestOfN
from softflow.policies.flow_policy import FlowPolicy

ENSEMBLE_DECAY = 0.01
"""The rate m of the weights exp(-m i) of temporal ensembling, i = 0 for the oldest chunk."""
LIKELY = 4
"""The critic chooses among the likeliest of every `LIKELY` candidates."""


@torch.inference_mode()
def continue_chunk(
    deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, strategy: str = "likeliest", n: int = 16
) -> Tensor:
    """Choose chunks that continue the ones being executed: (B, O), (B, L, A) -> (B, H, A), in [-1, 1].

    The first `delay` actions are those of `previous`. With a delay of 0 nothing is committed, and `naive`, `likeliest`
    and `critic` are `deployed.choose`, to the bit.

    Args:
        deployed: The policy. Its temperature is that of the candidates.
        observation: The observations when the computation starts, (B, O).
        previous: The actions of the executed chunks from that moment on, (B, L, A), with d <= L <= H.
        delay: Number of committed actions, d.
        strategy: One of `STRATEGIES`.
        n: Number of candidates of `likeliest` and `critic`.

    Raises:
        ValueError: An argument is out of range or not finite, or see `require_strategy`.
    """
    require_strategy(deployed, strategy, delay)
    policy = deployed.policy
    shape_fits = previous.ndim == 3 and (len(previous), previous.shape[2]) == (len(observation), policy.action_dim)
    if not (shape_fits and delay <= previous.shape[1] <= policy.horizon):
        raise ValueError(
            f"previous: expected ({len(observation)}, {delay} to {policy.horizon}, {policy.action_dim}), "
            f"got {tuple(previous.shape)}"
        )
    if not previous.isfinite().all():
        raise ValueError("previous: an action is not a finite number")
    if type(n) is not int or n < 1:
        raise ValueError(f"n must be an integer, at least 1, got {n!r}")
    return STRATEGIES[strategy](deployed, observation, previous, delay, n).clamp(-1, 1)


def require_strategy(deployed: BestOfN, strategy: str, delay: int) -> None:
    """Raise ValueError if a policy cannot use a strategy under this delay. The message says why."""
    policy, critic = deployed.policy, deployed.critic
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if type(delay) is not int or not 0 <= delay < policy.horizon:
        raise ValueError(f"delay must be in 0 ... horizon - 1 = {policy.horizon - 1}, got {delay!r}")
    if strategy in ("likeliest", "critic") and not (isinstance(policy, FlowPolicy) and policy.flow.exact_density):
        raise ValueError(f"{strategy} needs a flow policy with an exact density, such as 'coupling'")
    if strategy == "critic" and critic is None:
        raise ValueError("critic needs a policy with a critic: this one has none")
    if strategy == "critic" and critic is not None and critic.horizon <= delay:
        raise ValueError(f"the critic values {critic.horizon} actions, which a delay of {delay} has already committed")
    if strategy == "temporal_ensembling" and 2 * deployed.n_action_steps < policy.horizon:
        raise ValueError(
            "temporal_ensembling averages two chunks: at least half of each must be executed, not "
            f"{deployed.n_action_steps} of {policy.horizon} actions"
        )
    if strategy == "inpainting" and not (isinstance(policy, FlowPolicy) and policy.flow.guidable):
        raise ValueError("inpainting needs a flow that solves an ODE, such as 'flow_matching'")


def splice(prefix: Tensor, chunk: Tensor) -> Tensor:
    """Replace the first actions of every chunk by a prefix: (B, d, A), (B, *n, H, A) -> (B, *n, H, A)."""
    samples = chunk.shape[1:-2]
    prefix = prefix.reshape(len(prefix), *(1 for _ in samples), *prefix.shape[1:])
    return torch.cat((prefix.expand(-1, *samples, -1, -1), chunk[..., prefix.shape[-2] :, :]), -2)


def naive(deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, n: int) -> Tensor:
    """Switch to a new chunk as soon as it is ready, whatever its first actions were."""
    return splice(previous[:, :delay], deployed.choose(observation))


def likeliest(deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, n: int) -> Tensor:
    """Choose the candidate with the highest likelihood after the prefix has replaced its first actions.

    All candidates share the prefix, so the likeliest chunk has the likeliest continuation given the prefix as well:

        argmax_i log p(prefix, rest_i | o) = argmax_i log p(rest_i | prefix, o).
    """
    if delay == 0:
        return deployed.choose(observation)
    chunks, log_prob = _candidates(deployed, observation, previous[:, :delay], n)
    return _pick(chunks, log_prob)


def critics_choice(deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, n: int) -> Tensor:
    """Choose the candidate that the critic values most, among the likeliest quarter after the prefix."""
    if delay == 0:
        return deployed.choose(observation)
    assert deployed.critic is not None
    chunks, log_prob = _candidates(deployed, observation, previous[:, :delay], n)
    likely = log_prob.topk(math.ceil(n / LIKELY)).indices
    chunks = chunks.take_along_dim(likely[..., None, None], 1)
    valued = chunks[:, :, : deployed.critic.horizon].clamp(-1, 1)
    return _pick(chunks, deployed.critic(deployed.policy.features(observation), valued).mean(0))


def temporal_ensembling(deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, n: int) -> Tensor:
    """Average the actions that two chunks have for the same step, with weights exp(-m i), the older one i = 0.

    Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware (ACT), arXiv 2304.13705, alg. 2.

    Raises:
        ValueError: A chunk overlaps with more than the one before it, L > H / 2.
    """
    left, horizon = previous.shape[1], deployed.policy.horizon
    if 2 * left > horizon:
        raise ValueError(f"previous: temporal_ensembling averages at most {horizon // 2} actions, {left} remain")
    chunk, newer = deployed.choose(observation), math.exp(-ENSEMBLE_DECAY)
    mean = (previous + newer * chunk[:, :left]) / (1 + newer)
    return splice(previous[:, :delay], splice(mean, chunk))


def inpainting(deployed: BestOfN, observation: Tensor, previous: Tensor, delay: int, n: int) -> Tensor:
    """Guide the ODE of flow matching towards the remaining actions, firmly up to the delay and ever less after it.

    Black, Galliker and Levine, Real-Time Execution of Action Chunking Flow Policies, arXiv 2506.07339.
    """
    policy = deployed.policy
    known = splice(previous, previous.new_zeros(len(previous), policy.horizon, policy.action_dim))
    weight = soft_mask(policy.horizon, delay, previous.shape[1]).to(previous)
    chunk = policy.flow.inpaint(policy.features(observation), known, weight, deployed.temperature)
    return splice(previous[:, :delay], chunk)


def soft_mask(horizon: int, delay: int, left: int) -> Tensor:
    """Return the weight of each remaining action, (H,): 1 below d, then falling to 0 at L (arXiv 2506.07339, eq. 5)."""
    step = torch.arange(horizon)
    falling = ((left - step) / (left - delay + 1)).clamp(0, 1)
    return torch.where(step < delay, 1.0, falling * falling.expm1() / math.expm1(1))


STRATEGIES: dict[str, Callable[[BestOfN, Tensor, Tensor, int, int], Tensor]] = {
    "naive": naive,
    "likeliest": likeliest,
    "critic": critics_choice,
    "temporal_ensembling": temporal_ensembling,
    "inpainting": inpainting,
}
"""All strategies by name. Each takes and returns what `continue_chunk` does, without the checks and before clipping."""


def _candidates(deployed: BestOfN, observation: Tensor, prefix: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Draw candidates that begin with the prefix, (B, n, H, A), and their exact log-likelihoods in nats, (B, n)."""
    policy = deployed.policy
    assert isinstance(policy, FlowPolicy)
    chunks = splice(prefix, policy.sample(observation, n, deployed.temperature))
    return chunks, policy.log_prob(observation, chunks).nan_to_num(-math.inf, math.inf, -math.inf)


def _pick(chunks: Tensor, score: Tensor) -> Tensor:
    """Return the chunk with the highest score of each row: (B, n, H, A), (B, n) -> (B, H, A)."""
    return chunks[torch.arange(len(chunks)), score.argmax(-1)]
