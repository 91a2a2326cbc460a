"""Labelled samples of one modality per client, and pictures with texts of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.labelled import as_tensor, as_texts, labelled_clients, open_pool, vocabulary

THREE = {"image": 2, "text": 2, "audio": 1}


def test_every_picture_goes_to_one_client_of_one_modality() -> None:
    pool = open_pool("handwriting", None, 0, 0)
    clients = labelled_clients(pool, THREE, 40, 20, 0.5, 3)
    assert [c.name for c in clients] == ["audio-01", "image-01", "image-02", "text-01", "text-02"]
    uids = [s.uid.rpartition("-")[2] for c in clients for part in (c.train, c.test) for s in part]
    assert len(uids) == len(set(uids)) == 5 * 60
    assert all(min(len(c.train), len(c.test)) >= 8 for c in clients)
    assert {c.name: c.holds for c in clients}["text-01"] == ()
    for client in clients:
        for sample in client.train[:5]:
            assert sample.answer == pool.names[sample.meta["label"]]
            assert not set(pool.names) & set(sample.question.lower().replace(",", " ").split())


def test_one_seed_one_partition_and_skew_follows_alpha() -> None:
    pool = open_pool("handwriting", None, 0, 0)
    one, two, even = (labelled_clients(pool, {"image": 3}, 60, 30, alpha, 1) for alpha in (0.1, 0.1, None))
    assert [[s.uid for s in c.train] for c in one] == [[s.uid for s in c.train] for c in two]

    def largest(clients) -> float:
        return max(
            max(np.bincount([s.meta["label"] for s in c.train], minlength=10)) / len(c.train) for c in clients
        )

    assert largest(one) > 0.35 > largest(even)


def test_the_descriptions_words_are_the_vocabulary() -> None:
    known = set(vocabulary())
    pool = open_pool("handwriting", None, 0, 0)
    (client,) = labelled_clients(pool, {"text": 1}, 50, 10, None, 0)
    assert {w for s in client.train for w in s.question.replace(",", " ").split()} <= known


def test_texts_survive_the_wire() -> None:
    texts = ["", "a loop, grün", "x"]
    coded = as_tensor(texts)
    assert coded.dtype == torch.uint8
    assert as_texts(coded) == texts


def folder(path: Path, lines: list[object]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        Image.fromarray(np.full((9, 12, 3), 90 * i, np.uint8)).save(path / f"{i}.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (path / "metadata.jsonl").write_text(text, encoding="utf-8")
    return path


GOOD = [
    {"file_name": "0.png", "label": "rose", "text": "a Rose with many petals"},
    {"file_name": "1.png", "label": "daisy", "text": "white, roses beside it"},
]


def test_pictures_with_texts_of_ones_own(tmp_path) -> None:
    pool = open_pool("flowers", folder(tmp_path, GOOD), 0, 0)
    assert pool.names == ("daisy", "rose")
    assert pool.labels == [1, 0]
    assert pool.pictures[0].shape == (3, 9, 12)
    clients = labelled_clients(pool, {"text": 1}, 1, 1, None, 0)
    said = {s.answer: s.question for c in clients for part in (c.train, c.test) for s in part}
    assert "rose" not in said["rose"].lower()
    assert "petals" in said["rose"]


def test_the_texts_of_one_picture_stay_in_one_part(tmp_path) -> None:
    lines = [
        {"file_name": f"{i % 8}.png", "label": ("rose", "daisy")[i % 2], "text": f"number {i % 8}"}
        for i in range(24)
    ]
    for i in range(2, 8):
        tmp_path.joinpath(f"{i}.png").write_bytes(b"")
    folder(tmp_path, lines)
    for i in range(8):
        Image.new("RGB", (4, 3), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for seed in range(3):
        clients = labelled_clients(
            open_pool("flowers", tmp_path, 0, 0), {"text": 1, "image": 1}, 5, 3, None, seed
        )
        parts = {
            (c.name, name): part for c in clients for name, part in (("train", c.train), ("test", c.test))
        }
        shown = [
            {s.question or f"number {int(s.modalities['image'][0, 0, 0]) // 20}" for s in p}
            for p in parts.values()
        ]
        assert [len(p) for p in parts.values()] == [5, 3, 5, 3]
        assert sum(map(len, shown)) == len(set().union(*shown))
    with pytest.raises(ExperimentError, match="all texts of a picture stay in one part"):
        labelled_clients(open_pool("flowers", tmp_path, 0, 0), {"text": 1, "image": 1}, 7, 5, None, 0)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "is empty"),
        (["{"], "line 1 is no JSON object"),
        ([{"file_name": "0.png", "label": "rose"}], "line 1 has no text"),
        (["[1]"], "line 1 has no file_name"),
        ([{"file_name": "gone.png", "label": "rose", "text": ""}], "gone.png is no readable picture"),
    ],
)
def test_a_broken_folder_is_told_in_one_sentence(lines, sentence, tmp_path) -> None:
    with pytest.raises(ExperimentError, match=sentence) as told:
        open_pool("flowers", folder(tmp_path, lines), 0, 0)
    assert "\n" not in str(told.value)


def test_a_folder_without_its_list_and_an_unknown_data_set(tmp_path) -> None:
    with pytest.raises(ExperimentError, match=r"metadata\.jsonl is missing"):
        open_pool("flowers", tmp_path, 0, 0)
    with pytest.raises(ExperimentError, match="knows handwriting and tabletop"):
        open_pool("imagenet", None, 0, 0)


def test_the_shapes_of_the_tabletop_are_a_domain_the_generator_never_saw() -> None:
    pool = open_pool("tabletop", None, 24, 0)
    assert len(pool.labels) == 24
    assert len(pool.names) == 6
    assert pool.pictures[0].shape == (3, 16, 16)
