"""Value functions of action chunks, in PyTorch."""

from __future__ import annotations

from critics.ensemble import ChunkCritic, soft_update
from critics.returns import bootstrap, chunk_return, generalized_advantage
from critics.state_value import StateValue

__all__ = ["ChunkCritic", "StateValue", "bootstrap", "chunk_return", "generalized_advantage", "soft_update"]
