"""Small pictures, sounds and tables for the tests of this folder."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import soundfile
from PIL import Image

from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources import parse_source


def png(number: int) -> bytes:
    """A picture of 4 x 6 pixels; each number has a grey of its own."""
    content = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 10 * number % 256, np.uint8)).save(content, "PNG")
    return content.getvalue()


def wav(number: int) -> bytes:
    """A sound of 1,600 samples; each number has a pitch of its own."""
    content = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(1600) / 16_000)
    soundfile.write(content, wave, 16_000, format="WAV")
    return content.getvalue()


def ogg(number: int) -> bytes:
    """The sound of `wav` in OGG."""
    wave, rate = soundfile.read(io.BytesIO(wav(number)))
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format="OGG")
    return content.getvalue()


def write_stamps(root: Path) -> Path:
    """Five captioned pictures with spoken names, a voice without picture, and a picture without caption."""
    places = ("animals/pond/frog", "animals/pond/frog-1", "animals/cat", "food/pear", "food/pea")
    for number, place in enumerate(places):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".png").write_bytes(png(number))
        path.with_suffix(".txt").write_text(f"A {path.name}.\nfr.utf8=Une {path.name}.\n", encoding="utf-8")
        path.with_name(f"{path.name}_desc_fr.ogg").write_bytes(ogg(number))
    (root / "animals/cat_desc.ogg").write_bytes(ogg(9))
    (root / "animals/cat_mirror.png").write_bytes(png(8))
    (root / "food/salt_desc_fr.ogg").write_bytes(ogg(7))
    (root / "food/salt.txt").write_text("Salt.\n", encoding="utf-8")
    (root / "food/rice.png").write_bytes(png(6))
    (root / "food/pear.svg").write_text("<svg/>", encoding="utf-8")
    return root


def files(folder: Path, count: int, suffix: str = "png", under: str = "") -> list[str]:
    """Files 0.png, 1.png, ... or 0.wav, ..., and their names."""
    (folder / under).mkdir(parents=True, exist_ok=True)
    names = [str(Path(under) / f"{i}.{suffix}") for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(png(i) if suffix == "png" else wav(i))
    return names


def lines(path: Path, records: list[dict]) -> Path:
    """An object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def image_table(count: int = 6, **columns: list) -> datasets.Dataset:
    """A data set whose pictures are bytes in its rows."""
    features = {"image": datasets.Image()}
    stored = {"image": [{"bytes": png(i), "path": None} for i in range(count)]}
    plain = datasets.Dataset.from_dict(columns)
    return datasets.Dataset.from_dict(
        {**stored, **columns}, features=datasets.Features({**features, **plain.features})
    )


def load(path: object, **fields: object) -> list[ClientData]:
    """The clients of a table."""
    return parse_source({"source": "table", "path": path, **fields}).load(0)


def rows(path: object, **fields: object) -> list[Sample]:
    """All samples of a table in the order of its rows."""
    clients = load(path, **{"clients": 1, **fields})
    found = [s for client in clients for s in (*client.train, *client.test)]
    return sorted(found, key=lambda s: [int(n) for n in s.uid.split("/")])


def notes(path: object, **fields: object) -> list[str]:
    """The remarks on the reading."""
    clients = load(path, **{"clients": 1, **fields})
    return [note for client in clients for note in client.notes]
