"""Silos of photographs by category, spoken numbers by family of languages and text, and a public part for a first alignment.

The public voices are synthetic, by espeak-ng. The folder gets
    silos/       four silos of pictures, three of people's voices, one of text
    validation/  the same silos' training samples alone, a quarter of them as test samples, to choose settings on
    public/      pictures that no silo holds, and synthetic voices
    captions/    the pictures with their captions alone, public ones as training samples too, a silo a category
    demo/        two silos of pictures and two of voices
A picture and a recording is in one of silos' training, silos' test and public alone; all questions about it go with it.
A test picture whose file name differs by a number alone from one outside the test is left out: ladybug-2 beside ladybug.
"""

import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from .speech import Espeak, Voice

CATEGORIES = {
    "animals": "an animal",
    "food": "food",
    "vehicles": "a vehicle",
    "household": "a household thing",
}
OTHERS = ("plants", "sports", "hobbies", "clothes", "space", "town/monuments", "town/houses")
GROUPS = {"plants": OTHERS[:1], "leisure": OTHERS[1:5], "town": OTHERS[5:]}
"""The silos of captions that hold public pictures alone."""
FAMILIES = {
    "germanic": {"": "en-us", "en_GB": "en-gb", "de": "de", "nl": "nl", "nb": "nb", "sv": "sv"},
    "romance": {"es": "es", "fr": "fr", "it": "it", "pt": "pt", "ca": "ca", "ro": "ro"},
    "eastern": {"ru": "ru", "bg": "bg", "sl": "sl", "lt": "lt", "el": "el"},
}
"""Ending of a recording's name, and espeak-ng's voice, by family."""
NAMED = {"germanic": "", "romance": "es", "eastern": "ru"}
"""The language in which a family's names of animals are spoken."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHOWN, THIS, SAID, WHETHER = "what is shown?", "what is this?", "which number is said?", "is a number said?"
VOICES = tuple(Voice(variant, 150, 50) for variant in ("m1", "f2"))
DEMO = ("pictures-animals", "pictures-food", "voices-germanic", "voices-romance")
Row = dict[str, str]
T = TypeVar("T")


def caption(text: Path) -> str:
    """The first sentence of a stamp's English caption; empty for what names no thing."""
    words = text.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    for end in (".", "!", "—", "(", ",", " that "):
        words = words.split(end, 1)[0].strip()
    return f"{words}." if words.split(" ")[0] in ("A", "An", "Some", "Two") and "Tux" not in words else ""


def captioned(folder: Path) -> list[tuple[Path, str]]:
    """(picture, caption) of a category, sorted."""
    pairs = [(text.with_suffix(".png"), caption(text)) for text in sorted(folder.rglob("*.txt"))]
    return [(picture, words) for picture, words in pairs if picture.is_file() and words]


def shown(pictures: Sequence[tuple[Path, str]], question: str = SHOWN) -> list[Row]:
    """The captions."""
    return [{"image": str(p), "question": question, "answer": words} for p, words in pictures]


def asked(
    pictures: Sequence[tuple[Path, str]], category: str, draw: random.Random, every: int = 1
) -> list[Row]:
    """The questions about pictures: all captions, then yes or no, then which of four captions.

    `every`: 1 asks both of each picture, 2 one of them in turn.
    """
    rows = shown(pictures)
    names = list(CATEGORIES)
    more: list[list[Row]] = [[], []]
    for picture, _ in pictures:
        name = (
            category
            if category in names and draw.random() < 0.5
            else draw.choice([n for n in names if n != category])
        )
        answer = "Yes." if name == category else "No."
        more[0].append({"image": str(picture), "question": f"is it {CATEGORIES[name]}?", "answer": answer})
    captions = sorted({words for _, words in pictures})
    for picture, words in pictures:
        if len(captions) < 4:
            break
        options = [words, *draw.sample([c for c in captions if c != words], 3)]
        draw.shuffle(options)
        first, second, third, fourth = (f"{o[0].lower()}{o[1:-1]}" for o in options)
        question = f"which is it: {first}, {second}, {third} or {fourth}?"
        more[1].append({"image": str(picture), "question": question, "answer": words})
    return rows + more[0][::every] + more[1][every - 1 :: every]


def fresh(rows: Sequence[Row], seen: Sequence[tuple[Path, str]]) -> list[Row]:
    """The rows about pictures that are no other view of those seen."""
    known = {_thing(picture) for picture, _ in seen}
    return [row for row in rows if _thing(Path(row["image"])) not in known]


def _thing(picture: Path) -> str:
    return str(picture.parent / re.sub(r"[-_]?\d+$", "", picture.stem))


def heard(numbers: Sequence[tuple[Path, str]], names: Sequence[Path]) -> list[Row]:
    """The questions about recordings: the numbers, then whether it is a number."""
    rows = [{"audio": str(p), "question": SAID, "answer": f"{n.capitalize()}."} for p, n in numbers]
    rows += [{"audio": str(p), "question": WHETHER, "answer": "Yes."} for p, _ in numbers[: len(names)]]
    return rows + [{"audio": str(p), "question": WHETHER, "answer": "No."} for p in names]


def told(things: Sequence[tuple[str, str]], draw: random.Random) -> list[Row]:
    """Questions without a picture about (caption, category)."""
    rows = []
    for words, category in things:
        thing = f"{words[0].lower()}{words[1:-1]}"
        for name in (category, draw.choice([n for n in CATEGORIES if n != category])):
            answer = "Yes." if name == category else "No."
            rows.append({"question": f"is {thing} {CATEGORIES[name]}?", "answer": answer})
    return rows


def synthetic(espeak: Espeak, stamps: Path, folder: Path) -> tuple[list[tuple[Path, str]], list[Path]]:
    """Numbers in all languages and names of animals in some, spoken by espeak-ng: (file, number), and files."""
    folder.mkdir(parents=True)
    numbers, names = [], []
    for family, languages in FAMILIES.items():
        for voice in languages.values():
            for speaker in VOICES:
                for value, word in enumerate(NUMBERS):
                    numbers.append((folder / f"{voice}-{speaker.variant}-{value}.flac", word))
                    espeak.say(str(value), voice, speaker, numbers[-1][0])
        language = NAMED[family]
        for text in sorted((stamps / "food").rglob("*.txt")):
            lines = text.read_text(encoding="utf-8").splitlines()
            key = f"{language}.utf8="
            spoken = (
                [line.removeprefix(key) for line in lines if line.startswith(key)] if language else lines[:1]
            )
            if spoken and caption(text):
                names.append(folder / f"{family}-{text.stem}.flac")
                espeak.say(spoken[0].rstrip("."), language or "en-us", VOICES[0], names[-1])
    return numbers, names


def recordings(stamps: Path, family: str) -> tuple[list[tuple[Path, str]], list[Path]]:
    """People's numbers in a family's languages, and as many names of animals: (file, number), and files."""
    numbers = []
    for ending in FAMILIES[family]:
        for value, word in enumerate(NUMBERS):
            file = stamps / "symbols" / "math" / f"{value}{'_' if ending else ''}{ending}.ogg"
            if file.is_file():
                numbers.append((file, word))
    suffix = f"_desc{'_' if NAMED[family] else ''}{NAMED[family]}.ogg"
    names = [p for p in sorted((stamps / "animals").rglob(f"*{suffix}")) if p.name.endswith(suffix)]
    return numbers, names[: len(numbers) // 2]


def parts(items: Sequence[T], shares: Sequence[float], draw: random.Random) -> Iterator[list[T]]:
    """The items in disjoint parts of these shares, each in the items' order."""
    order, at = draw.sample(range(len(items)), len(items)), 0
    for share in shares:
        end = at + round(share * len(items))
        yield [items[i] for i in sorted(order[at:end])]
        at = end


def write(client: Path, split: dict[str, list[Row]]) -> None:
    """A client's folder: its files, each once, and metadata.jsonl with the rows of each split."""
    client.mkdir(parents=True)
    lines = []
    stored: dict[str, str] = {}
    for name, rows in split.items():
        for row in rows:
            kept = dict(row)
            for kind in ("image", "audio"):
                if kind in row:
                    file = stored.setdefault(row[kind], f"{len(stored):03d}-{Path(row[kind]).name}")
                    kept[kind] = file
            lines.append(json.dumps({**kept, "split": name}, ensure_ascii=False))
    for source, name in stored.items():
        shutil.copyfile(source, client / name)
    (client / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(espeak: Espeak, stamps: Path, folder: Path) -> str:
    """Draw all parts with one seed and write them."""
    draw = random.Random(0)
    public: list[Row] = []
    unseen: list[Row] = []
    things: list[tuple[str, str]] = []
    small: dict[str, dict[str, list[Row]]] = {}
    for category in CATEGORIES:
        common, train, test = parts(captioned(stamps / category), (0.25, 0.4, 0.35), draw)
        fit, check = parts(train, (0.75, 0.25), draw)
        name = f"pictures-{category}"
        small[name] = {
            "train": asked(train, category, draw, 2),
            "test": fresh(asked(test, category, draw, 2), common + train),
        }
        write(folder / "silos" / name, small[name])
        write(
            folder / "captions" / category,
            {"train": shown(common + train), "test": fresh(shown(test), common + train)},
        )
        write(
            folder / "validation" / name,
            {
                "train": asked(fit, category, draw, 2),
                "test": fresh(asked(check, category, draw, 2), common + fit),
            },
        )
        known, held = parts(common, (0.9, 0.1), draw)
        public += shown(known, THIS) + asked(known, category, draw, 2)
        unseen += fresh(asked(held, category, draw), known)
        things += [(words, category) for _, words in common]
    for category in OTHERS:
        pictures = captioned(stamps / category)
        public += shown(pictures, THIS) + asked(pictures, category, draw, 2)
    for name, categories in GROUPS.items():
        pictures = [pair for category in categories for pair in captioned(stamps / category)]
        write(folder / "captions" / name, {"train": shown(pictures)})
    write(folder / "public" / "pictures", {"train": public, "test": unseen})
    for family in FAMILIES:
        numbers, names = recordings(stamps, family)
        train, test = parts(numbers, (0.6, 0.4), draw)
        fit, check = parts(train, (0.75, 0.25), draw)
        no_train, no_test = parts(names, (0.6, 0.4), draw)
        no_fit, no_check = parts(no_train, (0.75, 0.25), draw)
        name = f"voices-{family}"
        small[name] = {"train": heard(train, no_train), "test": heard(test, no_test)}
        write(folder / "silos" / name, small[name])
        write(folder / "validation" / name, {"train": heard(fit, no_fit), "test": heard(check, no_check)})
    for name in DEMO:
        write(folder / "demo" / name, small[name])
    numbers, names = synthetic(espeak, stamps, folder / "spoken")
    known, held = parts(numbers, (0.95, 0.05), draw)
    write(folder / "public" / "voices", {"train": heard(known, names[5:]), "test": heard(held, names[:5])})
    shutil.rmtree(folder / "spoken")
    text_train, text_test = parts(told(things, draw), (0.7, 0.3), draw)
    text_fit, text_check = parts(text_train, (0.75, 0.25), draw)
    write(folder / "silos" / "text", {"train": text_train, "test": text_test})
    write(folder / "validation" / "text", {"train": text_fit, "test": text_check})
    return f"{len(small)} silos of pictures and voices, one of text, and a public part"
