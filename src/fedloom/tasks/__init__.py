"""Learning problems, one file each; their evaluation and metrics."""
