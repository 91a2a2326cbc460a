"""Questions about things with an answer that the folders of the stamps tell: no picture is needed."""

from collections.abc import Sequence
from pathlib import Path

from .splits import folds, number, split_of
from .stamps import Stamp, stamps
from .tables import write

KINDS = {
    "animals": "an animal",
    "food": "something to eat",
    "household": "a household item",
    "plants": "a plant",
    "vehicles": "a vehicle",
    "clothes": "something to wear",
}
UNCLEAR = ({"animals", "food"}, {"plants", "food"})
"""Pairs that are not asked against each other: a shrimp, and a lettuce, are both."""
_ARTICLES = ("A ", "An ", "Some ", "Two ")


def things(stamps: Sequence[Stamp]) -> list[Stamp]:
    """Photographs and clothes whose caption is a thing with its article, each caption once."""
    first: dict[str, Stamp] = {}
    for stamp in stamps:
        shown = stamp.style == "photograph" or stamp.category == "clothes"
        short = len(stamp.caption.split()) <= 4 and "," not in stamp.caption
        if stamp.category in KINDS and shown and short and stamp.caption.startswith(_ARTICLES):
            first.setdefault(stamp.caption.casefold(), stamp)
    return list(first.values())


def questions(stamp: Stamp, others: Sequence[Stamp]) -> list[tuple[str, str]]:
    """Questions with answers: what it is, whether it is that or something else, and which of four, if there are as many."""
    thing, kind = _lower(stamp.caption), KINDS[stamp.category]
    far = [c for c in KINDS if c != stamp.category and {c, stamp.category} not in UNCLEAR]
    strange = KINDS[far[number(stamp.stem) % len(far)]]
    plural = "are" if thing.startswith(("some ", "two ")) else "is"
    wrong = sorted((o for o in others if o.category in far), key=lambda o: number(stamp.stem + o.stem))
    four = sorted(
        [thing, *(_lower(o.caption) for o in wrong[:3])], key=lambda text: number(stamp.stem + text)
    )
    asked = [
        (f"what kind of thing {plural} {thing}?", kind),
        (f"{plural} {thing} {kind}?", "yes"),
        (f"{plural} {thing} {strange}?", "no"),
    ]
    if len(four) == 4:
        asked.append((f"which of these is {kind}: {', '.join(four[:3])} or {four[3]}?", thing))
    return asked


def _lower(caption: str) -> str:
    """A caption in the middle of a sentence."""
    text = caption.rstrip(".")
    return text[:1].lower() + text[1:]


def make(root: Path, folder: Path) -> str:
    """Write questions.csv; a thing, and what is asked about it, is on the side that its picture is on."""
    every = stamps(root)
    fold = folds(every)
    known = things(every)
    rows = []
    for stamp in known:
        same = [o for o in known if split_of(fold[o.stem]) == split_of(fold[stamp.stem])]
        for question, answer in questions(stamp, same):
            row = {"question": question, "answer": answer, "category": stamp.category, "stem": stamp.stem}
            rows.append({**row, "fold": fold[stamp.stem], "split": split_of(fold[stamp.stem])})
    write(folder, rows, "questions.csv")
    return f"{len(rows)} questions about {len(known)} things"
