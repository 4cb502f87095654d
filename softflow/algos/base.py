"""The interface between a method and the training loop: its stages, deployed policy and checkpointed parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from critics import ChunkCritic
from flows import NormalizedFlow
from softflow.algos.parts import leaves, load_states, modules, networks, states
from softflow.data import Corrections, Decision, Episode, Replay, action_statistics
from softflow.errors import UserError
from softflow.policies import BestOfN, ChunkPolicy, FlowPolicy, ObservationNormalizer, PixelEncoder
from softflow.task.layout import ObservationSize


@dataclass(frozen=True)
class Data:
    """The replays and the random generator from which an update draws its batches."""

    offline: Replay
    """Demonstrations."""
    online: Replay
    """The policy's own episodes."""
    rng: np.random.Generator
    held_out: Replay | None = None
    """Demonstrations from which nothing is learnt. None without any."""


class Acting(NamedTuple):
    """What an actor in another process needs to execute own episodes, beside the configuration."""

    networks: dict[str, dict[str, torch.Tensor]]
    """The state of each network among the parts, on the CPU, by the names of the parts."""
    candidates: int
    """`deployed.candidates`."""


class Contender(NamedTuple):
    """A policy that deploys at the end of a stage if it does better on held-out episodes than the best one so far."""

    name: str
    """What the log calls it."""
    make: Callable[[BestOfN], BestOfN]
    """Returns the policy, given the best one so far."""
    deploy: Callable[[Sequence[Episode], Sequence[Episode]], None]
    """Deploys it, given its held-out episodes and those of the policy that it replaces."""


Scalars = dict[str, torch.Tensor]
"""Scalars to log, with names such as `train/actor_loss`. They stay on the device until they are logged."""


def _learn_nothing(data: Data, progress: float) -> Scalars:
    return {}


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Stage:
    """One stage of a method: its update, its length, and the functions called at its start and end.

    A stage with `environment_steps` alternates between acting and learning, with `updates_per_step` updates per
    primitive step. Any other stage makes `updates` updates on the existing data. A stage of length zero is skipped.

    Attributes:
        name: The name of the stage, unique in the method.
        update: Makes one update of everything that the stage trains, `update(data, progress)`. `progress` is the
            completed fraction of the stage, in [0, 1).
        updates: The number of updates of a stage that does not act.
        environment_steps: The number of primitive environment steps of a stage that acts.
        updates_per_step: The number of updates per primitive step of a stage that acts.
        candidates: The number of chunks proposed for each one that is executed. The critic chooses among them. None if
            the algorithm itself sets the number in `deployed`.
        encoder_is_fixed: Whether the image encoder of `deployed` makes the same of an image in all updates of this
            stage and of later ones. If it contains a frozen network, the replays then hold what it returns
            (`ChunkPolicy.read`).
        begin: Called once, before the first update.
        end: Called once, before the next stage begins.
        diagnose: Computes further scalars that are too expensive for every update. It preserves the random states.

    Raises:
        ValueError: The stage makes updates, but has no `update`.
    """

    name: str
    update: Callable[[Data, float], Scalars] = _learn_nothing
    updates: int = 0
    environment_steps: int = 0
    updates_per_step: float = 0.0
    candidates: int | None = 1
    encoder_is_fixed: bool = False
    begin: Callable[[], None] = _nothing
    end: Callable[[], None] = _nothing
    diagnose: Callable[[Data], Scalars] = lambda data: {}

    def __post_init__(self) -> None:
        if self.update is _learn_nothing and (self.updates or self.updates_per_step):
            raise ValueError(f"stage {self.name!r} makes updates: say what they are, Stage({self.name!r}, update=...)")

    @property
    def acts(self) -> bool:
        """Whether the stage steps the environment."""
        return self.environment_steps > 0

    @property
    def total(self) -> int:
        """Length of the stage: in primitive steps if it acts, otherwise in updates."""
        return self.environment_steps if self.acts else self.updates


class Algorithm(ABC):
    """A method: a policy and everything that trains it.

    A subclass implements its constructor, `stages`, `parts`, and the update functions of its stages.

    Args:
        config: The settings. A subclass annotates this argument with a dataclass, whose fields become settings and
            flags of the run.
        observation_dim: O, or the layout of packed observations; a `FlowPolicy` accepts either.
        action_dim: A.
        device: The device of the networks.

    Attributes:
        deployed: The best policy of the method, which is evaluated and saved.
        base_kind: The class of the policies from which `load_base` can start.
        steers_steered: Whether `load_base` also takes a `SteeredPolicy`. The setting `base_heads` then describes it.
        steers_foreign: Whether the setting `base` may also name a policy of another project, see `ForeignPolicy`.
    """

    deployed: BestOfN
    base_kind: ClassVar[type[ChunkPolicy]] = FlowPolicy
    steers_steered: ClassVar[bool] = False
    steers_foreign: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, config: Any, observation_dim: ObservationSize, action_dim: int, device: str = "cpu") -> None: ...

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the stages in order."""

    @abstractmethod
    def parts(self) -> Mapping[str, Any]:
        """Return everything that is learnt or remembered, by name: objects with a `state_dict`, or mappings of them.

        Checkpoints contain their states. The policies among them get the observation statistics.
        """

    def schedule(self) -> list[Stage]:
        """Return the stages to run: those whose length is not zero."""
        return [stage for stage in self.stages() if stage.total > 0]

    @property
    def n_action_steps(self) -> int:
        """Number of actions of each chunk that are executed."""
        return self.deployed.n_action_steps

    @property
    def discount(self) -> float | None:
        """The discount per primitive step of the values of `deployed.critic`, whose rewards are relative to the largest
        return of a demonstration. None, the default, if they mean something else: nothing is compared with them."""
        return None

    @property
    def imitates(self) -> bool:
        """Whether the policy learns the likelihood of demonstrated chunks, so that these must have a density."""
        return True

    def assign(self) -> int:
        """Return the arm of the next own episode: the index of the behaviour that executes it. Always 0 by default."""
        return 0

    @property
    def arms_version(self) -> int:
        """A number that changes when arms begin to mean other networks. Whoever executes episodes then needs these."""
        return 0

    def require_arm(self, arm: int, what: str) -> None:
        """Raise `UserError` if `assign` can never have returned this arm. `what` says that something does not fit."""
        if arm:
            raise UserError(f"{what}: no episode has arm {arm}")

    def explore(self, observation: torch.Tensor, arms: torch.Tensor) -> torch.Tensor | Decision[torch.Tensor]:
        """Choose the chunks that own episodes execute: (B, O) and the arms of the episodes, (B,), -> (B, h, A).

        Of the h actions, the first `n_action_steps` are executed. By default they are those of `deployed`, and the
        whole chunks are kept, so that `Replay.sample(imitable=True)` returns them. A method that does not imitate its
        own episodes may return the actions alone. One that needs a record of its choice returns it in the `Decision`.
        """
        actions, proposed = self.deployed.decide(observation)
        return Decision(actions, proposed=proposed)

    def receive(self, episodes: Sequence[Episode]) -> None:
        """Receive own episodes in the order in which they started, before the updates that follow them.

        An episode that has ended is held back until all that started before it have ended or were lost. So short
        episodes, which are often successes, do not come first. All are already in the replay; this is for methods that
        learn only from their latest episodes. Some of the episodes began under an older policy.
        """
        return

    @property
    def contenders(self) -> Sequence[Sequence[Contender]]:
        """The policies that are compared with `deployed` on held-out episodes at the end of a stage.

        Of each group, at most one is deployed. The next group is compared with it.
        """
        return ()

    def load_base(self, policy: ChunkPolicy) -> None:
        """Start from a trained policy, including its observation statistics, in place of imitation.

        Called before training if the setting `base` names one. `fit_normalizer` and `fit_actions` are then not called.

        Raises:
            ValueError: The method trains its own policy, or cannot start from this one.
        """
        raise ValueError("this method cannot start from a trained policy")

    def require_base(self, observation: torch.Tensor) -> None:
        """Check on observations (B, O) that the base can do what the method needs, before anything runs.

        Called once the task of `deployed` is known.

        Raises:
            UserError: It cannot.
        """
        return

    def load_takeovers(self, episodes: Sequence[Episode]) -> None:
        """Learn from episodes in which a person took over. Called before training if `corrections` names files of them.

        Raises:
            ValueError: The method does not learn from takeovers, or nothing in them is worth learning.
        """
        raise ValueError("this method does not learn from takeovers")

    def load_corrections(self, corrections: Corrections) -> None:
        """Learn from labelled decisions. Called before training if the setting `corrections` names a file of them.

        Raises:
            ValueError: The method does not learn from decisions, or these do not fit its base.
        """
        raise ValueError("they are decisions alone: give whole episodes, as softflow-demo --corrections records them")

    def fit_normalizer(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the observation statistics of every policy among the parts: (O,), or (K,) for packed observations.

        Called once, before training, unless the method starts from a trained policy.
        """
        for module in modules(self.parts()):
            if isinstance(module, ObservationNormalizer):
                module.fit(mean, std)

    def fit_pictures(self, observation: torch.Tensor) -> None:
        """Give the mean of the images in packed observations, (N, O), to every encoder among the parts that learns.

        Called once, before training, unless the method starts from a trained policy.
        """
        for module in modules(self.parts()):
            if isinstance(module, PixelEncoder):
                module.fit(observation)

    def fit_actions(self, episodes: Sequence[Episode]) -> None:
        """Set the action statistics of every normalising flow and critic among the parts, from demonstrations.

        Called once, before training.
        """
        statistics: dict[tuple[str, float], list[torch.Tensor]] = {}
        for flow in modules(self.parts()):
            if not isinstance(flow, NormalizedFlow):
                continue
            bounds = flow.bounds, flow.shrink
            if bounds not in statistics:
                of = action_statistics(episodes, partial(_unbounded, flow))
                statistics[bounds] = [torch.as_tensor(values) for values in (of.center, of.scale, of.noise)]
            flow.fit(*statistics[bounds])
        self.fit_critics()

    def fit_critics(self) -> None:
        """Give the action statistics of the policy to every critic among the parts that normalises actions.

        `fit_actions` does so. It is called on its own if the method starts from a trained policy.
        """
        policy = self.deployed.policy
        for critic in modules(self.parts()):
            if isinstance(critic, ChunkCritic) and critic.normalize:
                critic.fit(policy.action_center, policy.action_scale)

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the weights of the deployed policy, then those of all networks among the parts, with their names."""
        yield from self.deployed.named_parameters()
        for part in leaves(self.parts()):
            if isinstance(part, nn.Module):
                yield from part.named_parameters()

    def acting(self) -> Acting:
        """Return copies of everything that `explore` may use: the networks among the parts, and the candidates.

        An actor has its own algorithm of the same configuration, which knows nothing else of this one.
        """
        copies = {
            name: {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
            for name, module in networks(self.parts())
        }
        return Acting(copies, self.deployed.candidates)

    def act_by(self, acting: Acting) -> None:
        """Let `explore` act as that of the algorithm whose `acting` this is."""
        for name, module in networks(self.parts()):
            module.load_state_dict(acting.networks[name])
        self.deployed.candidates = acting.candidates

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts, from which a run can be resumed."""
        return states(self.parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        load_states(self.parts(), {EARLIER_NAMES.get(name, name): value for name, value in state.items()})


EARLIER_NAMES = {"imitator": "policy_learner"}
"""Names of parts in checkpoints of earlier versions, and their present names."""


def _unbounded(flow: NormalizedFlow, action: NDArray[np.float64]) -> NDArray[np.float64]:
    return flow.unbounded(torch.from_numpy(action)).numpy()
