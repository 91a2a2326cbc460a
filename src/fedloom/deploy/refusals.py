"""A site's refusals of the server, kept in a file until `deploy site` says them."""

import fcntl
from contextlib import suppress
from pathlib import Path

FILE = "turned-away"
"""In a site's folder; a line for each refusal."""
LARGEST = 10**6
"""Bytes beyond which no further line is kept: a server could repeat without end what is refused."""
MOST = 20
"""Lines that are said at one time."""


def note(folder: Path, line: str) -> None:
    """Keep a refusal. A disk that takes no line changes no answer."""
    with suppress(OSError), (folder / FILE).open("a", encoding="utf-8", errors="replace") as file:
        fcntl.flock(
            file, fcntl.LOCK_EX
        )  # else `taken` could empty the file between its reading and this line
        if (folder / FILE).stat().st_size < LARGEST:
            file.write(line.replace("\n", " ")[:300] + "\n")


def taken(folder: Path) -> list[str]:
    """The refusals since the last call, each once; of many the first, and the number of the others."""
    file = folder / FILE
    if not file.is_file() or not file.stat().st_size:
        return []
    with file.open("r+", encoding="utf-8", errors="replace") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        lines = sorted(set(opened.read().splitlines()))
        opened.truncate(0)
    return lines[:MOST] + ([f"{len(lines) - MOST} further refusals"] if len(lines) > MOST else [])
