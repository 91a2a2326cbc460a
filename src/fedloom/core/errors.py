"""The one exception that a user's own mistake may raise; the command line prints it as a single sentence and exits with 2."""


class ExperimentError(ValueError):
    """What is wrong, where, and what would be right, in one sentence."""
