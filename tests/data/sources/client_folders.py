"""Clients' folders of a few records."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.folder import load_folder

QA = {"question": "what colour is it?", "answer": "red"}
RED = np.full((3, 5, 3), (200, 10, 20), np.uint8)


def write(client: Path, *records: object) -> Path:
    """A client's metadata: objects as JSON lines, texts as they are."""
    client.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (client / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return client


def picture(path: Path, pixels: np.ndarray = RED, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def only(root: Path):
    """The one training sample of the one client."""
    (client,) = load_folder(root)
    (sample,) = client.train
    return sample


def refusal(root: Path) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(ExperimentError) as caught:
        load_folder(root)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence
