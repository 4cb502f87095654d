"""The commands: softflow-train, softflow-eval, softflow-demo."""
