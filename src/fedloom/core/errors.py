"""The exceptions that the command line prints as a single sentence, each with its exit code."""

from typing import ClassVar


class ExperimentError(ValueError):
    """A user's mistake: what is wrong, its place and its remedy, in one sentence."""

    exit_code: ClassVar[int] = 2
    """Exit code of the command line."""


class DiskError(ExperimentError):
    """A full or unwritable disk, or a damaged file of a run, in one sentence."""

    exit_code: ClassVar[int] = 3
