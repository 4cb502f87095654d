"""Methods, one file each."""

from __future__ import annotations

from softflow.algos.base import Algorithm, Data, Stage
from softflow.algos.correction import Correction, CorrectionConfig
from softflow.algos.filtered_imitation import FilteredImitation, FilteredImitationConfig
from softflow.algos.flow_q_learning import FlowQLearning, FlowQLearningConfig
from softflow.algos.rfs_ppo import RfsPpo, RfsPpoConfig
from softflow.algos.softflow import SoftFlow, SoftFlowConfig
from softflow.algos.steering import Steering, SteeringConfig

ALGORITHMS = {
    "softflow": (SoftFlowConfig, SoftFlow),
    "filtered_imitation": (FilteredImitationConfig, FilteredImitation),
    "flow_q_learning": (FlowQLearningConfig, FlowQLearning),
    "steering": (SteeringConfig, Steering),
    "rfs_ppo": (RfsPpoConfig, RfsPpo),
    "correction": (CorrectionConfig, Correction),
}
"""Configuration and class of each algorithm, by the `algorithm` that a preset names."""

__all__ = [
    "ALGORITHMS",
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
    "SoftFlow",
    "SoftFlowConfig",
    "Stage",
    "Steering",
    "SteeringConfig",
]
