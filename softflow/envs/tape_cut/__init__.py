"""Cutting tape with scissors that a hand takes from their case."""
