"""Silos of captioned pictures of animals, and of their spoken names, out of Debian's tuxpaint-stamps-default.

Run: python scripts/real_models/stamps.py STAMPS FOLDER [CLIENTS]
STAMPS is usr/share/tuxpaint/stamps of the unpacked package (`apt-get download tuxpaint-stamps-default`, then `dpkg -x`). Half of
the clients hold pictures, the other half sounds: English names, spoken by people.
"""

import json
import shutil
import sys
from pathlib import Path

TOPIC = "animals"


def caption(text: Path) -> str:
    """The English caption, which is the first line of a stamp's text file."""
    return text.read_text(encoding="utf-8").split("\n", 1)[0].strip()


def pairs(stamps: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """(picture, caption) and (sound, caption) of all animals with a caption."""
    pictures, sounds = [], []
    for text in sorted((stamps / TOPIC).rglob("*.txt")):
        picture, sound = text.with_suffix(".png"), text.with_name(f"{text.stem}_desc.ogg")
        if (words := caption(text)) and picture.is_file():
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


def main(stamps: Path, folder: Path, clients: int = 4) -> None:
    """Deal the samples in turn."""
    pictures, sounds = pairs(stamps)
    half = clients // 2
    for k in range(half):
        write(folder / f"pictures-{k + 1}", "image", pictures[k::half], "what is in the picture?")
        write(folder / f"voices-{k + 1}", "audio", sounds[k::half], "what does the voice say?")
    print(f"{len(pictures)} pictures and {len(sounds)} sounds for {2 * half} clients")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
