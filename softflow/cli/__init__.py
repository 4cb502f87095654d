"""The commands softflow-train, softflow-eval, softflow-demo, softflow-export, softflow-guard and softflow-data."""

from softflow.console import occupy_standard_descriptors

occupy_standard_descriptors()  # before a library opens a file on import
