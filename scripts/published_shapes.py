"""Write PandaGPT- and HeySQuAD-shaped files, with the columns and parts of the published ones and content of the small world.

Run: python scripts/published_shapes.py FOLDER [CLIENTS] [TRAIN] [TEST]
Writes FOLDER/pandagpt and FOLDER/heysquad, each with rows for so many clients (10) of TRAIN (400) and TEST (100) samples.

PandaGPT: a list of conversations of two questions, and the folder of pictures that they name. HeySQuAD (human): parquet files of
spoken questions with their words, a context that tells the scene, and lists of spans as answers; one row in five has no answer.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import soundfile
from PIL import Image

from fedloom.data.sample import SAMPLE_RATE, Sample
from fedloom.data.tabletop import language
from fedloom.data.tabletop.world import Tabletop

IMPOSSIBLE = 5
"""One row in so many has no answer, and is left out when it is read."""


def pandagpt(folder: Path, rows: int, world: Tabletop) -> None:
    """Conversations about `rows` pictures: their caption, then a question."""
    (folder / "images").mkdir(parents=True)
    talks = []
    for number in range(rows):
        seen = world.sample("private", number, "caption")
        asked = world.sample("private", number, "image")
        name = f"{number:06d}.png"
        Image.fromarray(seen.modalities["image"].permute(1, 2, 0).numpy()).save(folder / "images" / name)
        turns = [(s.question, s.answer) for s in (seen, asked)]
        talk = [
            {"from": who, "value": text}
            for turn in turns
            for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        talks.append({"image_name": name, "conversation": talk})
    (folder / "pandagpt4_visual_instruction_data.json").write_text(json.dumps(talks))


def heysquad(folder: Path, parts: dict[str, int], world: Tabletop) -> None:
    """Spoken questions, with `parts` answered rows in each split."""
    first = 0
    for part, answered in parts.items():
        count = answered * IMPOSSIBLE // (IMPOSSIBLE - 1)
        rows = [_row(first + n, world, answered=n % IMPOSSIBLE != IMPOSSIBLE - 1) for n in range(count)]
        first += count
        table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio())
        table.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")


def _row(number: int, world: Tabletop, *, answered: bool) -> dict[str, Any]:
    sample = world.sample("private", 10**6 + number, "audio")
    spoken = str(sample.meta["spoken"])
    context = f"On the table is {language.caption(world.scene('private', 10**6 + number))}."
    spans = [{"answer_start": max(0, context.find(sample.answer)), "text": sample.answer}]
    return {
        "id": str(number),
        "audio": {"bytes": _flac(sample), "path": f"{number}.flac"},
        "transcription": spoken,
        "question": f"{spoken}?",
        "context": context,
        "answers": spans if answered else [],
        "is_impossible": not answered,
        "plausible_answers": spans,
    }


def _flac(sample: Sample) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sample.modalities["audio"].numpy(), SAMPLE_RATE, format="FLAC")
    return file.getvalue()


def main() -> None:
    """Write both folders."""
    root = Path(sys.argv[1])
    clients, train, test = (*map(int, sys.argv[2:]), *(10, 400, 100)[len(sys.argv) - 2 :])
    pandagpt(root / "pandagpt", clients * (train + test), Tabletop(0))
    heysquad(root / "heysquad", {"train": clients * train, "validation": clients * test}, Tabletop(0))


if __name__ == "__main__":
    main()
