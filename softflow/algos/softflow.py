"""SOFT-FLOW: a normalizing-flow policy over action chunks, fine-tuned against a chunk-level critic.

arXiv 2602.09580. Four stages of one loop:

    imitation       maximum likelihood on the demonstrations' chunks
    critic_warmup   the policy is frozen, the critic learns to value its chunks
    offline         actor and critic on the demonstrations
    online          actor and critic on demonstrations and own episodes, half and half

The actor minimises, over chunks a ~ pi(. | s) and chunks of the data (per dimension d of a chunk),

    q_weight * -Q(s, a) / |Q|  +  kl_weight * KL(pi || pi_imitation) / d  +  nll_weight * -log pi(a_data | s) / d

Both conservative terms are exact, because the flow's density is. A chunk of the data counts in the last term only if
reward still comes after it in its episode: a demonstration's own, or one of the policy's that led further. With a
staged reward an episode that fails late still teaches its beginning.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from critics import ChunkCritic, bootstrap, chunk_return, soft_update
from flows import DEFAULT_FLOW
from softflow.algos.base import Algorithm, Data, Stage
from softflow.data import Windows, concatenate, sample_mixed, to_torch
from softflow.policies import BestOfN, FlowPolicy


@dataclass
class ImitationConfig:
    """Imitation: maximum likelihood on the demonstrations."""

    updates: int = 6_000
    """Updates of the policy."""
    learning_rate: float = 1e-3
    """Of AdamW at the start; falls to zero along a cosine."""
    weight_decay: float = 0.0
    """Of AdamW."""


@dataclass
class WarmupConfig:
    """Critic warm-up: the critic alone, on the demonstrations, failures included."""

    updates: int = 1_000
    """Updates of the critic."""


@dataclass
class ImprovementConfig:
    """What the actor minimises in an offline or online stage, and how fast."""

    learning_rate: float = 5e-4
    """Of the actor's AdamW."""
    q_weight: float = 0.0
    """Weight of -Q / |Q| on the policy's own chunks."""
    kl_weight: float = 0.0
    """Weight of the exact KL to the frozen imitation policy, per dimension."""
    nll_weight: float = 1.0
    """Weight of the negative log-likelihood of data chunks that reward follows, per dimension."""

    advantage_scale: float = 0.5
    """Own chunks count exp(advantage / this) in the likelihood, the advantage in standard deviations of the batch."""
    action_noise: float = 0.0
    """Standard deviation of the noise added to own chunks before their likelihood is taken."""
    actor_delay: int = 0
    """Primitive steps of the stage before the actor is trained: the critic has to know the policy's episodes first."""

    @property
    def trains_actor(self) -> bool:
        """Whether any term is left; without one the critic alone learns."""
        return any((self.q_weight, self.kl_weight, self.nll_weight))


@dataclass
class OfflineConfig(ImprovementConfig):
    """Offline RL on the demonstrations."""

    updates: int = 1_000
    """Updates of actor and critic."""


@dataclass
class OnlineConfig(ImprovementConfig):
    """Online RL."""

    steps: int = 100_000
    """Primitive environment steps."""
    updates_per_step: float = 0.1
    """Updates of actor and critic for each primitive step."""
    offline_share: float = 0.5
    """Share of each batch that comes from the demonstrations."""
    candidates: int = 8
    """Chunks proposed for each that is executed to learn from; the critic chooses."""
    temperature: float = 0.35
    """Of the base noise of these chunks."""


@dataclass
class SoftFlowConfig:
    """Settings of SOFT-FLOW."""

    flow: str = DEFAULT_FLOW
    """Density of the policy, one of `flows.available_flows()`."""
    flow_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of that flow."""
    horizon: int = 8
    """Actions of a chunk that the policy proposes."""
    execute: int = 4
    """Actions of a chunk that are executed."""
    critic_horizon: int | None = None
    """Actions of a chunk that the critic values: those executed, unless given. 1 is the usual per-step critic."""
    candidates: int = 8
    """Chunks proposed for each that is executed in earnest; the critic chooses."""
    temperature: float = 0.2
    """Of the base noise of these chunks."""
    discount: float = 0.99
    """Per primitive step."""
    batch_size: int = 256
    """Windows in a batch."""
    average_rate: float = 0.005
    """Rate of the running average of the actor's weights, which is the policy that acts."""
    critic_members: int = 2
    """Critics in the ensemble; their mean is the value."""
    critic_width: int = 256
    """Hidden width of a critic."""
    critic_learning_rate: float = 3e-4
    """Of the critics' AdamW."""
    target_rate: float = 0.005
    """Rate at which the target critics follow."""
    target_temperature: float = 0.35
    """Of the chunk whose value the target bootstraps from."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.execute <= self.horizon:
            raise ValueError(f"execute must be in 1 ... horizon = {self.horizon}, got {self.execute}")
        if not 1 <= (self.critic_horizon or self.execute) <= self.horizon:
            raise ValueError(f"critic_horizon must be in 1 ... horizon = {self.horizon}, got {self.critic_horizon}")


GRADIENT_NORM = 10.0
"""Gradients are clipped to this norm."""


class SoftFlow(Algorithm):
    """See the module. `actor` learns; `policy`, the running average of its weights, acts."""

    policy: FlowPolicy

    def __init__(self, config: SoftFlowConfig, observation_dim: int, action_dim: int, device: str = "cpu") -> None:
        self.config, self.execute, self.device = config, config.execute, device
        self.actor = FlowPolicy(observation_dim, action_dim, config.horizon, config.flow, config.flow_options)
        self.actor.to(device)
        self.policy = copy.deepcopy(self.actor).requires_grad_(False).eval()
        self.imitation_policy = copy.deepcopy(self.policy)
        self.critic = ChunkCritic(
            context_dim=observation_dim,
            horizon=config.critic_horizon or config.execute,
            action_dim=action_dim,
            members=config.critic_members,
            width=config.critic_width,
        ).to(device)
        self.target = self.critic.make_target()
        self.deployed = BestOfN(self.policy, self.critic, config.execute, config.candidates, config.temperature)
        online = config.online
        self.explorer = BestOfN(self.policy, self.critic, config.execute, online.candidates, online.temperature)
        self.actor_optimizer = self._optimizer(self.actor.parameters(), config.imitation.learning_rate)
        self.critic_optimizer = self._optimizer(self.critic.parameters(), config.critic_learning_rate)
        self._dims = config.horizon * action_dim

    # ------------------------------------------------------------------------------------------------------- stages

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        for policy in (self.actor, self.policy, self.imitation_policy):
            policy.normalizer.fit(mean, std)

    def stages(self) -> Sequence[Stage]:
        c = self.config
        stages = (
            Stage("imitation", updates=c.imitation.updates),
            Stage("critic_warmup", updates=c.warmup.updates),
            Stage("offline", updates=c.offline.updates),
            Stage("online", environment_steps=c.online.steps, updates_per_step=c.online.updates_per_step),
        )
        return [stage for stage in stages if stage.total > 0]

    def begin(self, stage: Stage) -> None:
        """Freeze what imitation has learnt when it is over, and start the actor's optimiser anew for each stage."""
        if self.stages().index(stage) == 1:
            self.imitation_policy.load_state_dict(self.policy.state_dict())
        if stage.name in ("offline", "online"):
            rate = getattr(self.config, stage.name).learning_rate
            self.actor.load_state_dict(self.policy.state_dict())
            self.actor_optimizer = self._optimizer(self.actor.parameters(), rate)
        # A critic that has seen nothing but demonstrations cannot tell good from bad: until then, the policy alone.
        self.deployed.candidates = self.config.candidates if stage.name == "online" else 1

    def update(self, stage: Stage, data: Data, progress: float) -> dict[str, Tensor]:
        c = self.config
        if stage.name == "imitation":
            for group in self.actor_optimizer.param_groups:
                group["lr"] = c.imitation.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            return self.imitate(self._imitable(data, c.batch_size))
        share = c.online.offline_share
        windows = sample_mixed(data.offline, data.online, c.batch_size, self.critic.horizon, data.rng, share)
        batch = to_torch(windows, self.device)
        scalars = self.update_critic(batch)
        config = {"offline": c.offline, "online": c.online}.get(stage.name)
        if config is not None and config.trains_actor and progress * stage.total >= config.actor_delay:
            own = self._own(data, c.batch_size - round(c.batch_size * share)) if data.online.steps else None
            imitable = self._imitable(data, c.batch_size if own is None else round(c.batch_size * share))
            scalars |= self.update_actor(batch, imitable, own, config)
        return scalars

    # ------------------------------------------------------------------------------------------------------ updates

    def imitate(self, batch: Windows[Tensor]) -> dict[str, Tensor]:
        """One step of maximum likelihood."""
        nll = self.actor.conservative_loss(batch.observation, batch.chunk)
        self._descend(nll, self.actor_optimizer, self.actor.parameters())
        soft_update(self.policy, self.actor, self.config.average_rate)
        return {"train/actor_loss": nll.detach(), "flow/nll": nll.detach()}

    def update_critic(self, batch: Windows[Tensor]) -> dict[str, Tensor]:
        """Regress Q(s, chunk) on the discounted reward of the executed steps and the target's value after them."""
        c = self.config
        with torch.no_grad():
            following = self.policy.propose(batch.next_observation, 1, c.target_temperature)[
                :, 0, : self.critic.horizon
            ]
            next_value = self.target(self._features(batch.next_observation), following).mean(0)
            target = bootstrap(
                chunk_return(batch.reward, batch.length, c.discount),
                c.discount,
                batch.length,
                batch.terminated,
                next_value,
            )
        q = self.critic(self._features(batch.observation), batch.chunk)
        loss = (q - target).square().mean()
        self._descend(loss, self.critic_optimizer, self.critic.parameters())
        soft_update(self.target, self.critic, c.target_rate)
        q = q.detach()
        return {
            "train/critic_loss": loss.detach(), "critic/q_mean": q.mean(), "critic/q_min": q.min(), "critic/q_max": q.max()
        }  # fmt: skip

    def update_actor(
        self, batch: Windows[Tensor], imitable: Windows[Tensor], own: Windows[Tensor] | None, config: ImprovementConfig
    ) -> dict[str, Tensor]:
        """One step on the sum of the three terms; a term of weight zero costs nothing."""
        scalars = {}
        loss = torch.zeros((), device=self.device)
        if config.q_weight or config.kl_weight:
            chunk, log_prob = self.actor.propose_with_log_prob(batch.observation)
            if config.kl_weight:
                kl = (log_prob - self.imitation_policy.log_prob(batch.observation, chunk)).mean() / self._dims
                scalars["flow/kl_to_imitation"] = kl.detach()
                loss = loss + config.kl_weight * kl
            if config.q_weight:
                executed = chunk[:, 0, : self.critic.horizon].clamp(-1, 1)
                q = self.critic(self._features(batch.observation), executed).mean(0)
                loss = loss - config.q_weight * q.mean() / q.abs().mean().detach().clamp_min(1e-3)
        if config.nll_weight:
            nll = self.actor.conservative_loss(imitable.observation, imitable.chunk)
            scalars["flow/nll"] = nll.detach()
            if own is not None:
                weight = self._advantage_weight(own, config.advantage_scale)
                noisy = own.chunk + config.action_noise * torch.randn_like(own.chunk)
                own_nll = self.actor.conservative_loss(own.observation, noisy, weight)
                scalars["flow/own_nll"] = own_nll.detach()
                scalars["flow/effective_share"] = weight.sum() ** 2 / weight.square().sum() / len(weight)
                nll = (nll + own_nll) / 2
            loss = loss + config.nll_weight * nll
        self._descend(loss, self.actor_optimizer, self.actor.parameters())
        soft_update(self.policy, self.actor, self.config.average_rate)
        return scalars | {"train/actor_loss": loss.detach()}

    @torch.no_grad()
    def _advantage_weight(self, windows: Windows[Tensor], scale: float) -> Tensor:
        """exp(A / scale) of each window's chunk, A in standard deviations; zero for windows cut short: (B,)."""
        features = self._features(windows.observation)
        taken = self.target(features, windows.chunk[:, : self.critic.horizon]).mean(0)
        proposed = self.policy.propose(windows.observation, 4, self.config.target_temperature)
        value = self.target(features, proposed[:, :, : self.critic.horizon]).mean((0, 2))
        advantage = taken - value
        weight = (advantage / (scale * advantage.std().clamp_min(1e-6))).clamp(max=3.0).exp()
        return weight * (windows.return_to_go > 0)

    # ------------------------------------------------------------------------------------------------------- acting

    def explore(self, observation: Tensor) -> Tensor:
        return self.explorer.act(observation)

    # ------------------------------------------------------------------------------------------------------ details

    def _features(self, observation: Tensor) -> Tensor:
        return self.policy.normalizer(observation)

    def _imitable(self, data: Data, number: int) -> Windows[Tensor]:
        """Windows of the demonstrations that reward comes after."""
        return to_torch(data.offline.sample(number, self.config.horizon, data.rng, imitable=True), self.device)

    def _own(self, data: Data, number: int) -> Windows[Tensor]:
        """Windows of own episodes, short ones included."""
        return to_torch(data.online.sample(number, self.config.horizon, data.rng), self.device)

    def _optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=self.config.imitation.weight_decay, fused=True)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        optimizer.step()

    _SAVED = (
        "actor", "policy", "imitation_policy", "critic", "target", "actor_optimizer", "critic_optimizer"
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in self._SAVED} | {
            "candidates": self.deployed.candidates
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in self._SAVED:
            getattr(self, name).load_state_dict(state[name])
        self.deployed.candidates = state["candidates"]
