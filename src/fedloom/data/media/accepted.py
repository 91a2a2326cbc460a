"""The cache of accepted files: a second start need not decode them again.

One SQLite file in `$FEDLOOM_CACHE`, else `$XDG_CACHE_HOME/fedloom`, else `~/.cache/fedloom`. It holds hashes and notes, no names
and no content. A cache that cannot be read or written is done without.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import PIL
import soundfile

from fedloom.data.media.extra import PACKAGES, versions
from fedloom.data.media.settings import MediaSettings

SETTLED = 2.0
"""Seconds after which a file's next change shows in its times on every file system."""
CHECKS = 2
"""Number of the checks; a stricter one counts it up, so that what an older one accepted is checked again."""
AT_A_TIME = 500
_here: dict[bytes, tuple[str, ...]] = {}
"""Files that this process has accepted, where no cache can be written."""


def cache_folder() -> Path:
    """The folder of the cache."""
    own, common = os.environ.get("FEDLOOM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(common) if common else Path.home() / ".cache") / "fedloom"


def file_key(modality: str, path: Path, settings: MediaSettings) -> bytes | None:
    """The key of a verdict on a file: place, size, times, settings, versions; None for a file just changed."""
    status = path.stat()
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED:
        return None
    return _key(
        modality,
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        settings=settings,
    )


def content_key(modality: str, content: bytes, settings: MediaSettings) -> bytes:
    """The key of a verdict on a file inside another one: content, settings, versions."""
    return _key(modality, hashlib.sha256(content).hexdigest(), settings=settings)


def _key(*parts: object, settings: MediaSettings) -> bytes:
    code = (
        CHECKS,
        PIL.__version__,
        soundfile.__version__,
        soundfile.__libsndfile_version__,
        *versions(("numpy", *PACKAGES)),
    )
    text = json.dumps([*map(str, parts), settings.model_dump(), *code], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def recall(keys: Sequence[bytes]) -> dict[bytes, tuple[str, ...]]:
    """The notes on those keys that were accepted before."""
    found = {key: _here[key] for key in keys if key in _here}
    others = [key for key in keys if key not in found]
    try:
        with closing(_connect()) as store:
            for at in range(0, len(others), AT_A_TIME):
                part = others[at : at + AT_A_TIME]
                marks = ",".join("?" * len(part))
                rows = store.execute(f"SELECT key, notes FROM accepted WHERE key IN ({marks})", part)  # noqa: S608
                found |= {key: tuple(map(str, json.loads(notes))) for key, notes in rows}
    except (OSError, sqlite3.Error, ValueError, TypeError):  # without a cache, or with a damaged one
        pass
    return found


def remember(accepted: Mapping[bytes, Iterable[str]]) -> None:
    """Keep accepted keys and their notes."""
    _here.update((key, tuple(notes)) for key, notes in accepted.items())
    rows = [(key, json.dumps(list(notes))) for key, notes in accepted.items()]
    try:
        with closing(_connect()) as store, store:
            store.executemany("INSERT OR REPLACE INTO accepted VALUES (?, ?)", rows)
    except sqlite3.DatabaseError as error:
        if not isinstance(
            error, sqlite3.OperationalError
        ):  # damaged, not busy or read-only: begin anew next time
            _file().unlink(missing_ok=True)
    except OSError:
        return


def _file() -> Path:
    return cache_folder() / "accepted-media.sqlite"


def _connect() -> sqlite3.Connection:
    _file().parent.mkdir(parents=True, exist_ok=True)
    store = sqlite3.connect(_file(), timeout=5)
    try:
        store.execute("CREATE TABLE IF NOT EXISTS accepted (key BLOB PRIMARY KEY, notes TEXT) WITHOUT ROWID")
    except sqlite3.Error:
        store.close()
        raise
    return store
