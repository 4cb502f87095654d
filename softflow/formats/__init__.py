"""Readers of the dataset formats of other projects."""
