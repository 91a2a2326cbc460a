"""The optional libraries of media files: found, or named in one sentence."""

import importlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedloom.core.errors import ExperimentError

PACKAGES = ("av", "pillow-heif", "pydicom")
"""The packages of the extra `media`."""


class MissingLibraryError(ExperimentError):
    """A library is missing on this machine; no fault of a file, so that no sample is skipped for it."""


def needed(module: str, package: str, what: str) -> Any:
    """The imported module. Raises MissingLibraryError, which names the package and what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(what, package) from error


def missing(what: str, package: str) -> MissingLibraryError:
    """The sentence on a library that is not there."""
    return MissingLibraryError(f"{what} needs {package}: pip install 'fedloom[media]'")


@cache
def versions(packages: Sequence[str] = PACKAGES) -> tuple[str, ...]:
    """The packages' versions; empty for one that is not installed."""
    return tuple(map(_version, packages))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
