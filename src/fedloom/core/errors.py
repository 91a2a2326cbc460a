"""The exception for a user's mistake; the command line prints it as a single sentence and exits with 2."""


class ExperimentError(ValueError):
    """The mistake, its place and its remedy, in one sentence."""
