"""Pictures of things on white ground, one table for each style and category."""

from collections import Counter, defaultdict
from pathlib import Path

from .splits import folds, groups, split_of
from .stamps import stamps
from .tables import write

ENOUGH = 10
"""Pictures of one second folder from which on its name is a class."""


def on_white(source: Path, target: Path) -> None:
    """The picture in RGB, square, in the middle of white ground: no image processor cuts or stretches it."""
    from PIL import Image

    with Image.open(source) as picture:
        picture = picture.convert("RGBA")
    side = max(picture.size)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    target.parent.mkdir(parents=True, exist_ok=True)
    ground.convert("RGB").save(target)


def make(root: Path, folder: Path) -> str:
    """Write `<style>s/<category>/metadata.csv` and the pictures beside it; returns a sentence on them."""
    all_stamps = stamps(root)
    fold, group = folds(all_stamps), groups(all_stamps)
    counts = Counter(s.kind for s in all_stamps)
    rows = defaultdict(list)
    for stamp in all_stamps:
        place = folder / f"{stamp.style}s" / stamp.category
        file = stamp.stem.split("/", 1)[1].replace("/", "-") + ".png"
        on_white(root / f"{stamp.stem}.png", place / file)
        rows[place].append(
            {
                "file_name": file,
                "caption": stamp.caption,
                "name": stamp.name,
                "category": stamp.category,
                "label": stamp.kind if counts[stamp.kind] >= ENOUGH else "",
                "style": stamp.style,
                "group": group[stamp.stem],
                "fold": fold[stamp.stem],
                "split": split_of(fold[stamp.stem]),
            }
        )
    for place, listed in rows.items():
        write(place, listed)
    photographs = sum(s.style == "photograph" for s in all_stamps)
    together = sum(n for n in Counter(group.values()).values() if n > 1)
    tests = sum(f == 0 for f in fold.values())
    return (
        f"{photographs} photographs and {len(all_stamps) - photographs} drawings; {together} that may show the same thing as "
        f"another are kept on its side; {tests} for testing"
    )
