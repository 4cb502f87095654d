"""Policies, which map an observation to an action chunk."""

from __future__ import annotations

from softflow.policies.action_limits import ActionLimits
from softflow.policies.base import ChunkPolicy
from softflow.policies.base_policy import BasePolicy
from softflow.policies.best_of_n import BestOfN, register_policy
from softflow.policies.chunk_guard import ChunkGuard
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.foreign_policy import ForeignPolicy
from softflow.policies.guarded_policy import GuardedPolicy
from softflow.policies.normalizer import ObservationNormalizer
from softflow.policies.one_step import OneStepPolicy
from softflow.policies.pixel_encoder import PixelEncoder, register_encoder
from softflow.policies.policy import Policy
from softflow.policies.steered import SteeredPolicy

__all__ = [
    "ActionLimits",
    "BasePolicy",
    "BestOfN",
    "ChunkGuard",
    "ChunkPolicy",
    "FlowPolicy",
    "ForeignPolicy",
    "GuardedPolicy",
    "ObservationNormalizer",
    "OneStepPolicy",
    "PixelEncoder",
    "Policy",
    "SteeredPolicy",
    "register_encoder",
    "register_policy",
]
