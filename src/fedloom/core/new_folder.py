"""Folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import ExperimentError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to, which takes its place at the end and goes where anything fails.

    Raises ExperimentError if `folder` exists and is not an empty folder.
    """
    check_free(folder)
    part = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Raise ExperimentError if a folder cannot be written anew."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExperimentError(f"{folder} is no folder; choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise ExperimentError(f"{folder} is not empty; choose another folder")


def free_name(folder: Path) -> Path:
    """The first of folder, folder-2, folder-3, ... that does not exist."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
