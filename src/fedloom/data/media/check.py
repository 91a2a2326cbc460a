"""The check of many media files before a run: in parallel, with progress, remembering what was accepted."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from fedloom.data.media.accepted import content_key, file_key, recall, remember
from fedloom.data.media.extra import MissingLibraryError
from fedloom.data.media.kinds import check_media, decode_media
from fedloom.data.media.parts import WHOLE, Part
from fedloom.data.media.settings import DEFAULT, MediaSettings

WORKERS = 8
"""Files that are decoded at the same time, at most: each may need the memory of the largest allowed picture."""
BATCH = 64
"""Files after whose check the accepted ones are remembered and progress is reported."""


@dataclass(frozen=True)
class Media:
    """One picture or sound: a file, or a function that reads its content from inside another file."""

    modality: str
    source: Path | Callable[[], bytes]
    settings: MediaSettings = DEFAULT
    part: Part = WHOLE

    def content(self) -> Path | bytes:
        """The file, or the content read from inside another one."""
        return self.source if isinstance(self.source, Path) else self.source()

    def decode(self) -> Tensor:
        """The raw tensor. Raises many types for a broken file."""
        return decode_media(self.modality, self.content(), self.settings, self.part)

    def key(self) -> bytes | None:
        """The key of the file, or of its content, with the settings; None for a file just changed. Raises OSError."""
        content = self.content()
        if isinstance(content, Path):
            return file_key(self.modality, content, self.settings)
        return content_key(self.modality, content, self.settings)

    def portable(self) -> "Media":
        """The same for another process: a file by its place, one inside another file by its content."""
        return self if isinstance(self.source, Path) else replace(self, source=Held(self.source()))


@dataclass(frozen=True)
class Held:
    """A file's content in memory."""

    held: bytes

    def __call__(self) -> bytes:
        """The content."""
        return self.held


@dataclass(frozen=True)
class Finding:
    """The verdict on one file: the `fault` that makes it unusable, or notes on how it is read."""

    fault: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Checking:
    """The way in which one command checks media: `quick` looks at headers alone; `progress` gets the files done and their number.

    `notes` counts the notes on accepted files by their text.
    """

    quick: bool = False
    progress: Callable[[int, int], None] = lambda done, count: None
    notes: Counter[str] = field(default_factory=Counter)


_mode: ContextVar[Checking] = ContextVar("mode")


def mode() -> Checking:
    """The way in which this thread checks media."""
    return _mode.get(None) or Checking()


@contextmanager
def checking(how: Checking) -> Iterator[Checking]:
    """Within the block, this thread's `check_all` works in this way."""
    token = _mode.set(how)
    try:
        yield how
    finally:
        _mode.reset(token)


def check_all(media: Sequence[Media]) -> list[Finding]:
    """The findings on these files, in order; a file that stands twice is checked once.

    Raises MissingLibraryError for a file that no library here can read.
    """
    how = mode()
    distinct = list(dict.fromkeys(media))
    findings: dict[Media, Finding] = {}
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        for at in range(0, len(distinct), BATCH):
            part = distinct[at : at + BATCH]
            findings.update(zip(part, _check_some(part, how.quick, pool), strict=True))
            how.progress(len(findings), len(distinct))
    for finding in findings.values():
        how.notes.update(finding.notes)
    return [findings[m] for m in media]


def _check_some(media: Sequence[Media], quick: bool, pool: ThreadPoolExecutor) -> list[Finding]:
    if quick:
        return list(pool.map(lambda m: _check(m, quick=True), media))
    keys = list(pool.map(_key, media))
    known = recall([key for key in keys if key is not None])
    found = pool.map(lambda m, key: Finding(notes=known[key]) if key in known else _check(m), media, keys)
    findings = list(found)
    new = {k: f.notes for k, f in zip(keys, findings, strict=True) if k and k not in known and not f.fault}
    if new:
        remember(new)
    return findings


def _key(media: Media) -> bytes | None:
    try:
        return media.key()
    except Exception:  # the check that follows says what is wrong
        return None


def _check(media: Media, *, quick: bool = False) -> Finding:
    try:
        return Finding(notes=check_media(media.modality, media.content(), media.settings, quick=quick))
    except MissingLibraryError:
        raise
    except Exception as error:  # decoders raise many types on broken files
        return Finding(fault=reason(error))


def reason(error: Exception) -> str:
    """An error's message in one line, without the addresses of objects; or the name of its type."""
    text = " ".join(re.sub(r"(Error opening )?<_io\.\w+ [^>]*>:?", "", str(error)).split())
    return text[:200] or type(error).__name__
