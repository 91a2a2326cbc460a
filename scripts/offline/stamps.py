"""The stamps of Debian's tuxpaint-stamps-default: pictures with captions in many languages, and voices that say them."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("usr/share/tuxpaint/stamps")
"""Where the package has them."""
LEFT_OUT = ("symbols", "town/flags", "town/roadsigns")
"""Letters, coins, digits, flags and signs: no pictures of things."""
DRAWN = ("cartoon", "toys", "plastic")
"""Folders of drawings and toys at any depth."""
DRAWN_WHOLLY = ("clothes", "seasonal", "people", "naturalforces", "town")
"""Categories whose pictures are drawings for the most part."""
_NAME = re.compile(r"^(an?|the|some|two|our)\s+", re.IGNORECASE)
_SIGNS = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "..."})


@dataclass(frozen=True)
class Stamp:
    """A picture with a caption. `stem` is its path below the stamps without suffix, such as animals/birds/crow."""

    stem: str
    caption: str

    @property
    def category(self) -> str:
        """The first folder."""
        return self.stem.split("/")[0]

    @property
    def kind(self) -> str:
        """The second folder, or nothing."""
        folders = self.stem.split("/")[1:-1]
        return folders[0] if folders and folders[0] not in DRAWN else ""

    @property
    def style(self) -> str:
        """Whether it is a photograph or a drawing, by its folder."""
        drawn = self.category in DRAWN_WHOLLY or set(DRAWN) & set(self.stem.split("/")[:-1])
        return "drawing" if drawn else "photograph"

    @property
    def name(self) -> str:
        """The caption without article and full stop."""
        return _NAME.sub("", self.caption.rstrip("."))


def clean(line: str) -> str:
    """The first statement of a caption: no brackets, nothing after a dash, plain quotes, a full stop at its end."""
    text = re.sub(r"\s*\([^)]*\)", "", line.translate(_SIGNS)).strip(" –—-")
    text = re.split(r"\s*—\s*|\s+–\s+|(?<=[.!?])\s+", text)[0].strip()
    return text.rstrip(".!?") + "." if text.rstrip(".!?") else ""


def first_line(text: Path) -> str:
    """The English caption as it stands in a stamp's text file, "" where there is none."""
    if not text.is_file():
        return ""
    return text.read_text(encoding="utf-8-sig").split("\n", 1)[0].strip()


def translations(text: Path) -> dict[str, str]:
    """The captions by language, from the lines `fr.utf8=Un corbeau.`; "en" is the first line."""
    lines = text.read_text(encoding="utf-8-sig").splitlines()
    found = {"en": lines[0]} if lines else {}
    for line in lines[1:]:
        language, sign, caption = line.partition(".utf8=")
        if sign and caption.strip():
            found.setdefault(language, caption)
    return {language: words for language, caption in found.items() if (words := clean(caption))}


def stamps(root: Path) -> list[Stamp]:
    """All pictures of things that have a caption, in order."""
    found = []
    for picture in sorted(root.rglob("*.png")):
        stem = picture.relative_to(root).with_suffix("").as_posix()
        if any(stem.startswith(f"{folder}/") for folder in LEFT_OUT):
            continue
        if caption := clean(first_line(picture.with_suffix(".txt"))):
            found.append(Stamp(stem, caption))
    return found
