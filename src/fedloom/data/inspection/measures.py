"""Sizes of pictures and lengths of recordings, from the files' headers."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fedloom.data.media import KINDS, Media

MEASURED = 1000
"""Files of a modality that are opened, evenly spread over all."""


@dataclass(frozen=True)
class Measure:
    """The files of one modality: how many, and of those opened the least and largest (width, height) and seconds."""

    count: int
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    shortest: float | None = None
    longest: float | None = None


def measured(media: Sequence[Media]) -> Mapping[str, Measure]:
    """The measures by modality; a file that cannot be opened counts, but is not measured."""
    found = {}
    for modality in KINDS:
        if not (own := list(dict.fromkeys(m for m in media if m.modality == modality))):
            continue
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(_opened, own[:: max(1, len(own) // MEASURED)]))
        sizes = sorted((s for s, _ in opened if s is not None), key=lambda s: s[0] * s[1])
        lengths = sorted(s for _, s in opened if s is not None)
        found[modality] = Measure(
            len(own),
            *((sizes[0], sizes[-1]) if sizes else (None, None)),
            *((lengths[0], lengths[-1]) if lengths else (None, None)),
        )
    return found


def _opened(media: Media) -> tuple[tuple[int, int] | None, float | None]:
    """Width and height, and seconds, where the file has them."""
    kind = KINDS[media.modality]
    try:
        with kind.open(media.content(), media.settings) as opened:
            if kind.seconds is not None:
                return None, float(kind.seconds(opened))
            width, height = opened.size
            return (int(width), int(height)), None
    except Exception:  # the check of all files says what is wrong; DICOM's header has no size
        return None, None
