"""Four silos of animals: two hold captioned pictures as they stand in the package, two hold names that people say in English."""

import json
import shutil
from pathlib import Path

from .stamps import first_line

TOPIC, CLIENTS = "animals", 4


def pairs(stamps: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """(picture, caption) and (sound, caption) of all animals with a caption."""
    pictures, sounds = [], []
    for text in sorted((stamps / TOPIC).rglob("*.txt")):
        picture, sound = text.with_suffix(".png"), text.with_name(f"{text.stem}_desc.ogg")
        if (words := first_line(text)) and picture.is_file():
            pictures.append((picture, words))
        if words and sound.is_file():
            sounds.append((sound, words))
    return pictures, sounds


def write(client: Path, kind: str, samples: list[tuple[Path, str]], question: str) -> None:
    """One client's files and its metadata.jsonl; every fifth sample is for testing."""
    client.mkdir(parents=True)
    lines = []
    for number, (path, words) in enumerate(samples):
        name = f"{number:03d}-{path.name}"
        shutil.copyfile(path, client / name)
        split = "test" if number % 5 == 4 else "train"
        lines.append(json.dumps({kind: name, "question": question, "answer": words, "split": split}))
    (client / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(root: Path, folder: Path) -> str:
    """Deal the samples in turn."""
    pictures, sounds = pairs(root)
    half = CLIENTS // 2
    for k in range(half):
        write(folder / f"pictures-{k + 1}", "image", pictures[k::half], "what is in the picture?")
        write(folder / f"voices-{k + 1}", "audio", sounds[k::half], "what does the voice say?")
    return f"{len(pictures)} pictures and {len(sounds)} sounds for {CLIENTS} clients"
