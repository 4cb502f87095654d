"""Studies: runs of `softflow-train` over methods, environments, settings and seeds, and what they reach together."""
