"""The exceptions that the command line prints as a single sentence, each with its exit code, and the place of others."""

import traceback
from pathlib import Path
from typing import ClassVar


class ExperimentError(ValueError):
    """A user's mistake: what is wrong, its place and its remedy, in one sentence."""

    exit_code: ClassVar[int] = 2
    """Exit code of the command line."""


class DiskError(ExperimentError):
    """A full or unwritable disk, or a damaged file of a run, in one sentence."""

    exit_code: ClassVar[int] = 3


def with_place(error: Exception) -> str:
    """An error with the file and line that raised it."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.f_code.co_filename).name}, line {line})"
