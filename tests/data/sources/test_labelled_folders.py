"""Labelled samples in a folder for each client: parts, texts without class names, common pictures, mistakes in one sentence."""

import json

import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.labelled import LabelledSource

PARTITION = {"kind": "folder", "classes": ["oak", "red_maple"], "holds": {"north": "image", "south": "text"}}


def source(path, **more) -> LabelledSource:
    return LabelledSource(dataset="trees", path=path, partition={**PARTITION, **more})


def write(folder, lines) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        if "file_name" in line:
            Image.new("RGB", (5, 7), (9, 8, 7)).save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def trees(tmp_path):
    write(tmp_path / "north", [{"file_name": f"{i}.png", "label": "oak"} for i in range(10)])
    texts = [("oak", "an oak here"), ("red maple", "a tree"), ("oak", "old"), ("red_maple", "young")]
    write(tmp_path / "south", [{"text": text, "label": label} for label, text in texts])
    return tmp_path


def test_every_folder_is_a_client_of_the_agreed_modality(trees) -> None:
    north, south = source(trees).load(seed=3)
    assert (north.name, south.name) == ("north", "south")
    assert (north.holds, south.holds) == (("image",), ())
    assert (len(north.train), len(north.test)) == (8, 2)
    assert (len(south.train), len(south.test)) == (2, 2)
    assert north.train[0].modalities["image"].shape == (3, 7, 5)
    assert [s.uid for s in north.test] == [s.uid for s in source(trees).load(seed=3)[0].test]
    assert {s.meta["label"] for s in (*south.train, *south.test)} == {0, 1}
    assert not any("oak" in s.question for s in (*south.train, *south.test))
    assert source(trees).agreed_holdings() == {"north": ("image",), "south": ("text",)}
    assert source(trees).class_names() == ("oak", "red maple")


def test_lines_with_a_split_are_divided_by_it(trees) -> None:
    write(
        trees / "south",
        [{"text": str(i), "label": "oak", "split": "test" if i else "train"} for i in range(3)],
    )
    south = source(trees).load(seed=0)[1]
    assert ([s.question for s in south.train], [s.question for s in south.test]) == (["0"], ["1", "2"])


def test_a_site_has_its_own_folder_alone(trees, tmp_path) -> None:
    (trees / "north").rename(trees / ".." / f"{trees.name}-away")
    assert [client.name for client in source(trees).load(seed=0)] == ["south"]


def test_common_pictures_judge_and_are_no_clients(trees) -> None:
    assert source(trees).pool(0) is None
    write(trees / "common", [{"file_name": "a.png", "label": "red maple"}])
    pool = source(trees).pool(0)
    assert (pool.labels, pool.names) == ([1], ("oak", "red maple"))
    assert torch.equal(pool.pictures[0][:, 0, 0], torch.tensor([9, 8, 7], dtype=torch.uint8))
    assert len(source(trees).load(seed=0)) == 2


@pytest.mark.parametrize(
    ("client", "lines", "message"),
    [
        (
            "south",
            [{"text": "x", "label": "elm"}],
            "'elm' is none of the 2 classes agreed on in data.partition",
        ),
        ("south", [{"label": "oak"}], "line 1 has no text; every line needs label, text"),
        ("north", [{"label": "oak"}], "line 1 has no file_name; every line needs label, file_name"),
        (
            "west",
            [{"text": "x", "label": "oak"}],
            "west is none of the clients agreed on in data.partition.holds",
        ),
        (
            "south",
            [{"text": "x", "label": "oak", "split": "test"}, {"text": "y", "label": "oak"}],
            "split is 'None' in a line; where one line has a split every line needs train or test",
        ),
    ],
)
def test_a_mistake_in_a_folder_is_one_sentence(client, lines, message, trees) -> None:
    write(trees / client, lines)
    with pytest.raises(ExperimentError, match=message):
        source(trees).load(seed=0)


def test_a_path_without_an_agreed_client_is_one_sentence(tmp_path) -> None:
    with pytest.raises(
        ExperimentError, match=r"holds no client of data\.partition\.holds; right is a folder north"
    ):
        source(tmp_path).load(seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "kind folder reads <path>/<client>/metadata.jsonl; name data.path"),
        ({"partition": {**PARTITION, "classes": ["a b", "a_b"]}}, "two classes are called 'a b'"),
        ({"partition": {**PARTITION, "classes": ["a", "\x1b[2J"]}}, "is no class"),
        ({"partition": {**PARTITION, "holds": {"north": "video"}}}, "'image', 'text' or 'audio'"),
    ],
)
def test_a_wrong_agreement_is_refused(change, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledSource(**{"path": tmp_path, "partition": PARTITION, **change})
