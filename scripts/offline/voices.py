"""Digits and names of things as people say them, one table for each language."""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .splits import dealt, folds, split_of
from .stamps import stamps, translations
from .tables import write

DIGITS = "symbols/math"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT = re.compile(r"(\d)(?:_(desc))?(?:_(\w+))?")
_NAME = re.compile(r"(.+)_desc(?:_([a-z]{2}))?")


@dataclass(frozen=True)
class Digit:
    """A spoken digit. `speaker` tells two recordings of one language apart, such as en and en_GB, and knows no names."""

    digit: int
    language: str
    speaker: str


def digit_of(stem: str) -> Digit | None:
    """The content of a file such as 7, 7_fr, 7_en_GB or 7_desc_fr; None for another one."""
    found = _DIGIT.fullmatch(stem)
    if found is None:
        return None
    digit, name, tag = found.groups()
    speaker = "_".join(filter(None, (name, tag or "en")))
    return Digit(int(digit), (tag or "en").split("_")[0], speaker)


def make_digits(root: Path, folder: Path) -> str:
    """Write `<language>/metadata.csv` and the sounds beside it: of every speaker two digits of ten are for testing."""
    spoken = {}
    for path in sorted((root / DIGITS).glob("*.ogg")):
        if digit := digit_of(path.stem):
            spoken[digit] = path
    rows = defaultdict(list)
    for speaker in sorted({d.speaker for d in spoken}):
        own = {f"{speaker}/{d.digit}": d for d in spoken if d.speaker == speaker}
        for name, fold in dealt(own).items():
            digit = own[name]
            place = folder / digit.language
            place.mkdir(parents=True, exist_ok=True)
            file = f"{digit.digit}-{speaker}.ogg"
            shutil.copyfile(spoken[digit], place / file)
            said = {"file_name": file, "digit": digit.digit, "word": WORDS[digit.digit]}
            whom = {"language": digit.language, "speaker": speaker}
            rows[place].append({**said, **whom, "fold": fold, "split": split_of(fold)})
    for place, listed in rows.items():
        write(place, listed)
    return f"{len(spoken)} digits in {len(rows)} languages by {len({d.speaker for d in spoken})} speakers"


def names(root: Path, category: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """Every spoken name of a category's things with its row of a table, in order."""
    all_stamps = stamps(root)
    fold = folds(all_stamps)
    for stamp in all_stamps:
        if stamp.category != category:
            continue
        words = translations(root / f"{stamp.stem}.txt")
        path = root / stamp.stem
        for sound in sorted(path.parent.glob(f"{path.name}_desc*.ogg")):
            found = _NAME.fullmatch(sound.stem)
            language = (found[2] or "en") if found else ""
            if found is None or found[1] != path.name or language not in words:
                continue
            row = {
                "language": language,
                "said": words[language],
                "caption": stamp.caption,
                "name": stamp.name,
            }
            stem = {"category": category, "stem": stamp.stem}
            yield sound, {**row, **stem, "fold": fold[stamp.stem], "split": split_of(fold[stamp.stem])}


def make_names(root: Path, folder: Path, category: str = "animals") -> str:
    """Write `<language>/metadata.csv` and the sounds beside it. A thing is on the side that its picture is on."""
    rows = defaultdict(list)
    for sound, row in names(root, category):
        place = folder / str(row["language"])
        place.mkdir(parents=True, exist_ok=True)
        file = str(row["stem"]).split("/", 1)[1].replace("/", "-") + ".ogg"
        shutil.copyfile(sound, place / file)
        rows[place].append({"file_name": file, **row})
    for place, listed in rows.items():
        write(place, listed)
    counts = ", ".join(f"{place.name} {len(listed)}" for place, listed in sorted(rows.items()))
    return f"{sum(map(len, rows.values()))} names of {category}: {counts}"
