"""The training methods, one module each."""

from __future__ import annotations

from softflow.algos.base import Acting, Algorithm, Data, Stage
from softflow.algos.correction import Correction, CorrectionConfig
from softflow.algos.filtered_imitation import FilteredImitation, FilteredImitationConfig
from softflow.algos.flow_q_learning import FlowQLearning, FlowQLearningConfig
from softflow.algos.registry import ALGORITHMS, find_algorithm, register_algorithm
from softflow.algos.rfs_ppo import RfsPpo, RfsPpoConfig
from softflow.algos.sac import SAC, SACConfig
from softflow.algos.softflow import SoftFlow, SoftFlowConfig
from softflow.algos.steering import Steering
from softflow.algos.steering_settings import SteeringConfig
from softflow.algos.takeover_imitation import TakeoverImitation, TakeoverImitationConfig
from softflow.algos.takeover_rl import TakeoverRL, TakeoverRLConfig

_OURS: dict[str, type[Algorithm]] = {
    "correction": Correction,
    "filtered_imitation": FilteredImitation,
    "flow_q_learning": FlowQLearning,
    "rfs_ppo": RfsPpo,
    "sac": SAC,
    "softflow": SoftFlow,
    "steering": Steering,
    "takeover_imitation": TakeoverImitation,
    "takeover_rl": TakeoverRL,
}
for _name, _algorithm in _OURS.items():
    ALGORITHMS.register(_name, _algorithm)


def ancestor_of(name: str) -> str | None:
    """Return the name of softflow's algorithm from which another one derives. None if there is none, or for softflow's.

    Raises:
        UserError: See `find_algorithm`.
    """
    if name in _OURS:
        return None
    names = {algorithm: ours for ours, algorithm in _OURS.items()}
    return next((names[cls] for cls in find_algorithm(name).__mro__ if cls in names), None)


__all__ = [
    "ALGORITHMS",
    "SAC",
    "Acting",
    "Algorithm",
    "Correction",
    "CorrectionConfig",
    "Data",
    "FilteredImitation",
    "FilteredImitationConfig",
    "FlowQLearning",
    "FlowQLearningConfig",
    "RfsPpo",
    "RfsPpoConfig",
    "SACConfig",
    "SoftFlow",
    "SoftFlowConfig",
    "Stage",
    "Steering",
    "SteeringConfig",
    "TakeoverImitation",
    "TakeoverImitationConfig",
    "TakeoverRL",
    "TakeoverRLConfig",
    "ancestor_of",
    "find_algorithm",
    "register_algorithm",
]
