"""The commands, each in the module of its name: softflow-train, softflow-eval and so on."""

from softflow.console import occupy_standard_descriptors

occupy_standard_descriptors()  # before a library opens a file on import
