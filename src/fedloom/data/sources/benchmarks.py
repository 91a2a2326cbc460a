"""Files of public benchmarks of multimodal LLMs as samples: POPE, MME and MMBench.

    POPE     JSON lines {"question_id": 1, "image": "x.jpg", "text": "Is there a dog?", "label": "yes"}, pictures in a folder
    MME      <folder>/<category>.txt, tab-separated picture, question, Yes or No; pictures in <images> or <images>/<category>
    MMBench  a TSV file with the columns index, question, hint, A, B, C, D, answer, category, image (base64)

`meta` holds benchmark, truth, category, image and choices. Raises ExperimentError for files in another format.
"""

import base64
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.files import find_file
from fedloom.data.media import Media, check_media, decode_media
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import MediaFiles
from fedloom.data.sources.plain_records import Place

SHORT = "Please answer yes or no."
BY_LETTER = "Answer with the option's letter from the given choices directly."


def load_pope(file: Path, images: Path) -> list[Sample]:
    """One sample per line."""
    samples = []
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, text, label = record["image"], record["text"], str(record["label"]).lower()
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(
                f"{file}, line {number}: a POPE line holds image, text and label ({error!r})"
            ) from error
        if label not in ("yes", "no"):
            raise ExperimentError(f"{file}, line {number}: the label should be yes or no, and is {label!r}")
        uid = f"pope/{record.get('question_id', number)}"
        meta = {"benchmark": "pope", "truth": label, "image": name, "category": record.get("category", "")}
        samples.append(Sample(uid, _picture(images / name, file, number), f"{text} {SHORT}", label, meta))
    return _not_empty(samples, file)


def load_mme(folder: Path, images: Path) -> list[Sample]:
    """One sample per line of every category file of a folder, in name order."""
    samples = []
    for file in sorted(folder.glob("*.txt")):
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            parts = line.split("\t")
            if len(parts) < 3 or parts[2].strip().lower() not in ("yes", "no"):
                raise ExperimentError(
                    f"{file}, line {number}: an MME line is picture, question and Yes or No, separated by tabs"
                )
            name, text, truth = parts[0], parts[1], parts[2].strip().lower()
            place = images / file.stem / name
            meta = {"benchmark": "mme", "truth": truth, "image": name, "category": file.stem}
            picture = _picture(place if place.is_file() else images / name, file, number)
            samples.append(Sample(f"mme/{file.stem}/{number}", picture, text, truth, meta))
    return _not_empty(samples, folder)


def load_mmbench(file: Path) -> list[Sample]:
    """One sample per row; the choices follow the question."""
    csv.field_size_limit(2**31 - 1)  # a picture is one field
    samples = []
    for number, row in enumerate(csv.DictReader(io.StringIO(_text(file)), delimiter="\t"), 2):
        choices = {key: row[key] for key in "ABCD" if row.get(key) and row[key] != "nan"}
        if not row.get("question") or not row.get("image") or row.get("answer") not in choices:
            raise ExperimentError(
                f"{file}, line {number}: an MMBench row has question, image, choices A to D and an answer among them"
            )
        hint = f"{row['hint']}\n" if row.get("hint") and row["hint"] != "nan" else ""
        listed = "\n".join(f"{key}. {text}" for key, text in choices.items())
        meta = {
            "benchmark": "mmbench",
            "truth": row["answer"],
            "category": row.get("category", ""),
            "choices": choices,
        }
        try:
            picture = _decoded(base64.b64decode(row["image"], validate=True))
        except Exception as error:  # base64 and Pillow raise many types
            raise ExperimentError(f"{file}, line {number}: the picture cannot be read ({error})") from error
        question = f"{hint}{row['question']}\n{listed}\n{BY_LETTER}"
        uid = f"mmbench/{row.get('index', number)}"
        samples.append(Sample(uid, {"image": picture}, question, row["answer"], meta))
    return _not_empty(samples, file)


def _picture(path: Path, file: Path, line: int) -> Mapping[str, Any]:
    path = find_file(path.parent, path.name)
    if not path.is_file():
        raise ExperimentError(f"{file}, line {line}: there is no picture {path}")
    return MediaFiles({"image": Media("image", path)}, Place("benchmark", file, line).unusable)


def _decoded(data: bytes) -> Any:
    check_media("image", data)
    return decode_media("image", data)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _lines(file: Path) -> list[str]:
    return _text(file).split("\n")  # not splitlines: texts may hold U+2028


def _not_empty(samples: list[Sample], place: Path) -> list[Sample]:
    if not samples:
        raise ExperimentError(f"{place} holds no question")
    return samples
