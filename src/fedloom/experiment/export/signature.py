"""The last line of a model card: a checksum of what is above it, which tells an edited card from an untouched one."""

import hashlib
import re
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.seals import forget
from fedloom.models.adapter_folder import MIXED

_LINE = re.compile(r"\n<!-- written by fedloom, sha256 ([0-9a-f]{64}) -->\s*\Z")


def signed(text: str) -> str:
    """A card with its last line."""
    body = text.rstrip() + "\n"
    return f"{body}\n<!-- written by fedloom, sha256 {_digest(body)} -->\n"


def edited(file: Path) -> bool:
    """Whether a file is there that fedloom did not write as it stands."""
    if not file.is_file():
        return False
    text = file.read_text(encoding="utf-8", errors="replace")
    found = _LINE.search(text)
    return text != MIXED and (found is None or found.group(1) != _digest(text[: found.start()]))


def write(file: Path, text: str, *, force: bool = False) -> None:
    """Write a card. Raises ExperimentError for one that was edited by hand, unless `force`."""
    if edited(file) and not force:
        raise ExperimentError(
            f"{file} was edited by hand, or is not ours; --force replaces it, --out writes elsewhere"
        )
    write_atomic(file, signed(text).encode())


def write_in_run(run: Path, file: Path, text: str, *, force: bool = False) -> None:
    """Write a card below a run's folder, whose seals leave it to its readers from then on."""
    write(file, text, force=force)
    forget(run, file)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
