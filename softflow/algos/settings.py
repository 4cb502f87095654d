"""Settings that several methods share, and the policy that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

from flows import DEFAULT_FLOW
from flows.registry import find_flow
from softflow.policies import FlowPolicy
from softflow.task.layout import ObservationSize

PASSES, MOST_UPDATES = 400, 8_000
"""Number of times that imitation draws each demonstrated step by default, and its largest number of updates."""
SMALLEST_DISCOUNT = 0.99
"""The default discount for short demonstrations."""


@dataclass
class ImitationConfig:
    """Imitation: maximum likelihood on the demonstrations."""

    updates: int | None = None
    """Number of updates. By default, as many as draw each demonstrated step that is worth imitating 400 times, but at
    most 8,000. Too few leave the policy imprecise; too many overfit if demonstrations are few."""
    learning_rate: float = 1.5e-3
    """Initial learning rate of AdamW. It decays to zero along a cosine over the stage."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, in imitation and in every later stage that trains the policy."""
    initial_noise: float = 1.0
    """Noise added to the actions at the start of imitation, as a fraction of the scale of each dimension. It decays to
    zero over the stage; the flow's own `noise` remains. With higher values, the policy learns the coarse shape of the
    density for longer before its details. It applies only to flows that are trained by the likelihood of normalised
    actions."""

    def __post_init__(self) -> None:
        if not 0 <= self.initial_noise < math.inf:
            raise ValueError(f"initial_noise: expected a finite number >= 0, got {self.initial_noise!r}")


@dataclass
class PolicyConfig:
    """Settings of a flow policy and of its imitation."""

    flow: str = DEFAULT_FLOW
    """Density model of the policy: one of `flows.available_flows()`."""
    flow_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of the flow, such as its `width`."""
    normalize_actions: bool | None = None
    """Whether the flow models actions that are normalised by the statistics of the demonstrations. By default it does,
    except for a flow whose density is limited to the bounds, such as `tanh_gaussian`."""
    encoder: str | None = None
    """Encoder of the images, if the observation has any. `conv`, the default, is a small network that is trained. A
    timm network, such as `tf_efficientnet_lite0` or `vit_small_patch14_dinov2`, has pretrained weights and is
    frozen."""
    encoder_options: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Options of the encoder. A timm network requires `weights`, the path of a file, or `download`."""
    horizon: int = 8
    """Number of actions in each chunk that the policy proposes."""
    n_action_steps: int = 4
    """Number of actions of each chunk that are executed before the policy proposes the next chunk."""
    temperature: float = 0.35
    """Scale of the base noise of executed chunks. Higher values explore more, but act less precisely."""
    batch_size: int = 256
    """Number of windows per batch."""
    ema_rate: float = 0.005
    """Rate of the exponential moving average of the actor's weights. The averaged weights are the policy that acts.
    Higher values track the actor more closely and smooth less; 1 uses the actor itself."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    base: str | None = None
    """Run folder, or the folder of one of its checkpoints, from whose policy training starts; imitation is skipped. The
    environment and the demonstrations of that run are used unless others are given. Methods that steer also accept the
    policy of another project: `module:name` or an ONNX file. By default, imitation trains the policy."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_action_steps <= self.horizon:
            raise ValueError(f"n_action_steps must be in 1 ... horizon = {self.horizon}, got {self.n_action_steps}")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2: advantages are normalised within a batch; got {self.batch_size}"
            )

    def for_demonstrations(self, steps: int, length: float) -> Self:
        """Return the settings with the numbers that follow from the demonstrations, where they are not set.

        Args:
            steps: Number of steps worth imitating.
            length: Median number of steps of a demonstration.
        """
        if self.imitation.updates is not None:
            return self
        updates = min(math.ceil(PASSES * steps / self.batch_size), MOST_UPDATES)
        return replace(self, imitation=replace(self.imitation, updates=updates))

    @property
    def imitation_updates(self) -> int:
        """Number of updates of the stage `imitation`, which is skipped if there is a base."""
        return self.full_imitation_updates if self.base is None else 0

    @property
    def full_imitation_updates(self) -> int:
        """Number of updates of imitation from scratch: the largest, unless it is set or `for_demonstrations` did."""
        updates = self.imitation.updates
        return MOST_UPDATES if updates is None else updates

    def make_policy(self, observation_dim: ObservationSize, action_dim: int) -> FlowPolicy:
        """Build the flow policy that these settings describe.

        Raises:
            ValueError, ImportError: See `FlowPolicy`.
        """
        normalize = self.normalize_actions
        if normalize is None:
            normalize = not find_flow(self.flow).open_box
        return FlowPolicy(
            observation_dim,
            action_dim,
            self.horizon,
            self.flow,
            self.flow_options,
            self.encoder,
            self.encoder_options,
            normalize,
        )


@dataclass
class ChunkCriticConfig(PolicyConfig):
    """Settings of a policy with a chunk critic."""

    critic_horizon: int | None = None
    """Number of leading actions of a chunk that the critic values. By default it is `n_action_steps`. With 1, the
    critic values single actions, as usual in RL."""
    candidates: int = 1
    """Number of chunks proposed for each one that is executed. The critic chooses among them. More candidates follow
    the critic more closely, including its errors."""
    target_candidates: int = 1
    """Number of chunks proposed for the bootstrapped value of a critic's target. The critic chooses among them.
    More candidates make the target more optimistic."""
    discount: float | None = None
    """Discount factor per primitive step. By default, it halves a reward over the median length of a demonstration, but
    is at least 0.99. Values closer to 1 look further ahead, but are harder to learn."""
    critic_members: int = 2
    """Number of critics in the ensemble. The value is their mean."""
    critic_width: int = 256
    """Number of units in each hidden layer of a critic."""
    critic_learning_rate: float = 5e-4
    """Learning rate of AdamW for the critics."""
    target_rate: float = 0.005
    """Rate at which the target critics follow the critics, per update. Higher values learn faster, but less stably."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("candidates", "target_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= (self.critic_horizon or self.n_action_steps) <= self.horizon:
            raise ValueError(f"critic_horizon must be in 1 ... horizon = {self.horizon}, got {self.critic_horizon}")
        if not 0 <= self.step_discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {self.discount}")

    def for_demonstrations(self, steps: int, length: float) -> Self:
        settings = super().for_demonstrations(steps, length)
        if settings.discount is not None:
            return settings
        return replace(settings, discount=max(SMALLEST_DISCOUNT, 0.5 ** (1 / length)))

    @property
    def step_discount(self) -> float:
        """Discount per primitive step: the smallest, unless it is set or `for_demonstrations` did."""
        return SMALLEST_DISCOUNT if self.discount is None else self.discount


@dataclass
class WarmupConfig:
    """Critic warm-up: only the critic is trained, on all demonstrations including failed ones."""

    updates: int = 1_000
    """Number of critic updates."""


@dataclass
class OnlineStageConfig:
    """Online RL on the demonstrations and the policy's own episodes."""

    steps: int = 150_000
    """Number of primitive environment steps."""
    updates_per_step: float = 0.03
    """Number of updates per primitive step. Higher values learn more from each step but take longer."""
    offline_share: float = 0.5
    """Fraction of each batch that comes from the demonstrations, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.offline_share <= 1:
            raise ValueError(f"offline_share must be in (0, 1], got {self.offline_share}")


@dataclass
class OnlineMethodConfig(ChunkCriticConfig):
    """Settings of a method that learns online with a chunk critic."""

    online: OnlineStageConfig = field(default_factory=OnlineStageConfig)
