"""Policies: from an observation to an action chunk."""
