"""Methods, one file each."""

from __future__ import annotations

from softflow.algos.base import Algorithm, Data, Stage
from softflow.algos.filtered_imitation import FilteredImitation, FilteredImitationConfig
from softflow.algos.sac import SAC, SACConfig
from softflow.algos.softflow import SoftFlow, SoftFlowConfig
from softflow.algos.steering import Steering, SteeringConfig

ALGORITHMS: dict[str, type[Algorithm]] = {
    "filtered_imitation": FilteredImitation,
    "sac": SAC,
    "softflow": SoftFlow,
    "steering": Steering,
}
"""Each algorithm, by the `algorithm` that a preset names; those of others are named `module:Class`."""

__all__ = [
    "ALGORITHMS",
    "SAC",
    "Algorithm",
    "Data",
    "FilteredImitation",
    "FilteredImitationConfig",
    "SACConfig",
    "SoftFlow",
    "SoftFlowConfig",
    "Stage",
    "Steering",
    "SteeringConfig",
]
