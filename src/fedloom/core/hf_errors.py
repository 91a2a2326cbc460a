"""Errors of transformers while it reads a checkpoint, as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import ExperimentError

LONGEST = 200
"""Characters of a reason that are shown."""


@contextmanager
def loading(field: str, source: str | Path) -> Iterator[None]:
    """Context that raises any error as an ExperimentError about the checkpoint `source` of the setting `field`."""
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:
        if (
            Path(source).is_absolute() and not Path(source).exists()
        ):  # transformers would speak of a name on the hub
            raise ExperimentError(f"{field}: there is no folder {source}") from error
        raise ExperimentError(f"{field}: {source} cannot be loaded: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The first line of an error, without a list of all that would have been right."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
