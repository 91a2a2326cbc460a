"""Local training: the training loop, the cohort trained as one batch, and their optimizers."""
