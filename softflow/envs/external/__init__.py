"""Demonstrators for the tasks of other packages."""
