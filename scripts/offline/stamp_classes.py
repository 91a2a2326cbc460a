"""Pictures of 16 categories for clients, and captioned pictures that are public, out of Debian's tuxpaint-stamps-default.

Half of each category, at least eight pictures, goes to clients/<category>; everything else but letters, coins and other symbols
to public/ with a metadata.jsonl. Pictures of one caption are on one side; a hash of the caption deals, nothing is drawn.
"""

import hashlib
import json
import shutil
from pathlib import Path

CATEGORIES = {
    "animals/birds": "bird",
    "animals/fish": "fish",
    "animals/insects": "insect",
    "animals/mammals": "mammal",
    "food/fruit": "fruit",
    "food/vegetables": "vegetable",
    "hobbies/music": "musical instrument",
    "household/tools": "tool",
    "plants/flowers": "flower",
    "seasonal/christmas": "christmas decoration",
    "seasonal/easter": "easter decoration",
    "seasonal/halloween": "halloween decoration",
    "space/planets": "planet",
    "town/houses": "house",
    "town/monuments": "monument",
    "town/roadsigns": "road sign",
}
"""Classes by the folders that hold ten captioned pictures or more."""
LEAST = 8


def captioned(stamps: Path) -> list[tuple[Path, str]]:
    """(picture, English caption) of all stamps but symbols, in the order of their paths."""
    found = []
    for text in sorted(stamps.rglob("*.txt")):
        picture = text.with_suffix(".png")
        if text.relative_to(stamps).parts[0] == "symbols" or not picture.is_file():
            continue
        if words := text.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip():
            found.append((picture, words))
    return found


def plain(caption: str) -> str:
    """A caption's letters, so that "A lion." and "a lion" are one."""
    return "".join(c for c in caption.lower() if c.isalpha() or c == " ").strip()


def folder_of(picture: Path, stamps: Path) -> str:
    """The first two folders of a picture's path."""
    return "/".join(picture.relative_to(stamps).parts[:-1][:2])


def divided(stamps: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """(picture, category) of the clients, and (picture, caption) of the public part; no caption is on both sides."""
    found = captioned(stamps)
    private: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for folder, category in CATEGORIES.items():
        own = [(p, plain(words)) for p, words in found if folder_of(p, stamps) == folder]
        captions = sorted({c for _, c in own}, key=lambda c: hashlib.sha256(c.encode()).hexdigest())
        chosen: list[Path] = []
        for caption in captions:
            if len(chosen) >= max(LEAST, len(own) // 2):
                break
            chosen += [p for p, c in own if c == caption]
            taken.add(caption)
        private += [(p, category) for p in chosen]
    held = {p for p, _ in private}
    return private, [(p, words) for p, words in found if p not in held and plain(words) not in taken]


def make(stamps: Path, folder: Path) -> str:
    """Copy the pictures."""
    private, public = divided(stamps)
    for number, (picture, category) in enumerate(private):
        place = folder / "clients" / category.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, place / f"{number:03d}-{picture.name}")
    (folder / "public").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (picture, words) in enumerate(public):
        name = f"{number:03d}-{picture.name}"
        shutil.copyfile(picture, folder / "public" / name)
        lines.append(json.dumps({"file_name": name, "text": words}, ensure_ascii=False))
    (folder / "public" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{len(private)} pictures of {len(CATEGORIES)} categories for clients, {len(public)} public ones"
