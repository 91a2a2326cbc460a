"""Which samples are for testing: a rule by names alone, the same on every machine.

Stamps that may show the same thing stay together: those of one caption, whatever its digits and case (frog-1 and frog), and those
of one folder whose file names differ by a number at the end (ladybug and ladybug-2). A group is named after its first stamp, and
SHA-256 of that name, modulo five, is its fold; fold 0 is for testing.
"""

import hashlib
import re
from collections.abc import Hashable, Iterable, Sequence

from .stamps import Stamp

FOLDS = 5


def number(name: str) -> int:
    """A number that the name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def split_of(fold: int) -> str:
    """The split of a fold."""
    return "test" if fold == 0 else "train"


def groups(stamps: Sequence[Stamp]) -> dict[str, str]:
    """Each stamp's group by its stem: the group's first stem."""
    first = {s.stem: s.stem for s in stamps}

    def top(stem: str) -> str:
        while first[stem] != stem:
            stem = first[stem]
        return stem

    seen: dict[Hashable, str] = {}
    for stamp in sorted(stamps, key=lambda s: s.stem):
        for key in (_words(stamp.caption), re.sub(r"[-_]?\d+$", "", stamp.stem)):
            one, other = sorted((top(seen.setdefault(key, stamp.stem)), top(stamp.stem)))
            first[other] = one
    return {s.stem: top(s.stem) for s in stamps}


def _words(caption: str) -> tuple[str, ...]:
    """The caption's words without digits, articles and case."""
    return tuple(w for w in re.findall(r"[^\W\d_]+", caption.casefold()) if w not in ("a", "an", "the"))


def folds(stamps: Sequence[Stamp]) -> dict[str, int]:
    """Each stamp's fold by its stem."""
    return {stem: number(group) % FOLDS for stem, group in groups(stamps).items()}


def dealt(names: Iterable[str]) -> dict[str, int]:
    """Folds of equal size: the names in the order of their numbers, dealt in turn."""
    return {name: k % FOLDS for k, name in enumerate(sorted(names, key=number))}
