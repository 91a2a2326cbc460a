"""Tasks: learning problems, one file each; their evaluation and metrics."""
