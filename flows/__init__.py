"""Conditional densities over action chunks, in PyTorch.

>>> flow = make_flow("coupling", horizon=8, action_dim=15, context_dim=97)
>>> flow.loss(chunk, context).backward()
>>> chunk, log_prob = flow.rsample_and_log_prob(context, n=4)
"""

from __future__ import annotations

from flows.base import ChunkFlow
from flows.baselines import FullGaussianFlow, GaussianMixtureFlow, TanhGaussianFlow
from flows.bases import GaussianBase, LatentBase, MixtureBase
from flows.bounds import BoundedFlow
from flows.coupling import CouplingFlow, SplineCouplingFlow
from flows.flow_matching import FlowMatchingFlow
from flows.gaussian import GaussianFlow
from flows.normalized import NormalizedFlow
from flows.registry import DEFAULT_FLOW, available_flows, make_flow, register_flow

__all__ = [
    "DEFAULT_FLOW",
    "BoundedFlow",
    "ChunkFlow",
    "CouplingFlow",
    "FlowMatchingFlow",
    "FullGaussianFlow",
    "GaussianBase",
    "GaussianFlow",
    "GaussianMixtureFlow",
    "LatentBase",
    "MixtureBase",
    "NormalizedFlow",
    "SplineCouplingFlow",
    "TanhGaussianFlow",
    "available_flows",
    "make_flow",
    "register_flow",
]
