"""Settings that several methods share, and the policy that they describe."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows import DEFAULT_FLOW
from softflow.policies import FlowPolicy
from softflow.task.layout import ObservationSize


@dataclass
class ImitationConfig:
    """Imitation: maximum likelihood on the demonstrations."""

    updates: int = 8_000
    """Number of updates. Too few leave the policy imprecise; on few demonstrations too many overfit."""
    learning_rate: float = 1.5e-3
    """Learning rate of AdamW at the start of the stage. It falls to zero along a cosine."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, in imitation and in every later stage of the policy."""


@dataclass
class PolicyConfig:
    """Settings of a flow policy and of its imitation, with which every method begins."""

    flow: str = DEFAULT_FLOW
    """Density of the policy: one that `flows.available_flows()` lists."""
    flow_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of the flow, such as its `width`."""
    encoder: str | None = None
    """Encoder of the images, if the observation has any: `conv` (the default) or the pretrained `resnet18`."""
    encoder_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of the encoder. `resnet18` needs `weights`, the path of a file."""
    horizon: int = 8
    """Number of actions in a chunk that the policy proposes."""
    n_action_steps: int = 4
    """Number of actions of a chunk that are executed before the next chunk is proposed."""
    temperature: float = 0.35
    """Scale of the base noise of executed chunks. Higher values explore more and act less precisely."""
    batch_size: int = 256
    """Number of windows in a batch."""
    ema_rate: float = 0.005
    """Rate of the exponential moving average of the actor's weights, which is the policy that acts. Higher values
    follow the actor faster and average less; 1 is the actor itself."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.n_action_steps <= self.horizon:
            raise ValueError(f"n_action_steps must be in 1 ... horizon = {self.horizon}, got {self.n_action_steps}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2: advantages are compared in it; got {self.batch_size}")

    def make_policy(self, observation_dim: ObservationSize, action_dim: int) -> FlowPolicy:
        """Build the flow policy that these settings describe.

        Raises:
            ValueError, ImportError: See `FlowPolicy`.
        """
        return FlowPolicy(
            observation_dim,
            action_dim,
            self.horizon,
            self.flow,
            self.flow_options,
            self.encoder,
            self.encoder_options,
        )


@dataclass
class ChunkCriticConfig(PolicyConfig):
    """Settings of a policy with a chunk critic beside it."""

    critic_horizon: int | None = None
    """Number of actions of a chunk that the critic values. By default those that are executed; 1 is the usual per-step
    critic."""
    candidates: int = 1
    """Number of chunks proposed for each one that is executed; the critic chooses. More candidates follow the critic
    more closely, its errors included."""
    target_candidates: int = 1
    """Number of chunks proposed for the value in a critic's target; the critic chooses."""
    discount: float = 0.99
    """Discount per primitive step. Values nearer to 1 look further ahead and are harder to learn."""
    critic_members: int = 2
    """Number of critics in the ensemble; their mean is the value."""
    critic_width: int = 256
    """Hidden width of each critic."""
    critic_learning_rate: float = 5e-4
    """Learning rate of the critics' AdamW."""
    target_rate: float = 0.005
    """Rate at which the target critics follow the critics. Higher values learn faster and less stably."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("candidates", "target_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= (self.critic_horizon or self.n_action_steps) <= self.horizon:
            raise ValueError(f"critic_horizon must be in 1 ... horizon = {self.horizon}, got {self.critic_horizon}")


@dataclass
class WarmupConfig:
    """Critic warm-up: the critic learns alone, on the demonstrations, failures included."""

    updates: int = 1_000
    """Number of updates of the critic."""


@dataclass
class OnlineStageConfig:
    """Online RL."""

    steps: int = 150_000
    """Number of primitive environment steps."""
    updates_per_step: float = 0.03
    """Number of updates per primitive step. Higher values learn more from each step and take more time."""
    offline_share: float = 0.5
    """Share of each batch that comes from the demonstrations, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.offline_share <= 1:
            raise ValueError(f"offline_share must be in (0, 1], got {self.offline_share}")


@dataclass
class OnlineMethodConfig(ChunkCriticConfig):
    """Settings of a method that learns online with a chunk critic."""

    online: OnlineStageConfig = field(default_factory=OnlineStageConfig)
