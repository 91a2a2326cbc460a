"""Picture folders of clients with an agreed class list: labels, parts, common pictures."""

from pathlib import Path

import pytest
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.image_classes import ImageClassSource

BASE, NOVEL = ("snow owl", "sea_eagle", "kite"), ("osprey",)


def write(folder: Path, count: int, colour: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (12, 10), (colour, 20 * i, 9)).save(folder / f"{i}.png")


def source(path: Path, **more: object) -> ImageClassSource:
    partition = {"kind": "folder", "base": BASE, "novel": NOVEL}
    return ImageClassSource.model_validate({"dataset": "birds", "path": path, "partition": partition, **more})


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write(tmp_path / "south" / "kite", 4)
    write(tmp_path / "south" / "snow_owl", 6)
    write(tmp_path / "north" / "train" / "sea_eagle", 3)
    write(tmp_path / "north" / "test" / "sea eagle", 2)
    write(tmp_path / "common" / "osprey", 2)
    write(tmp_path / "common" / "kite", 1)
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_labels_follow_the_agreed_list_whatever_a_client_holds(birds) -> None:
    north, south = source(birds, test_share=0.5).load(0)
    assert (north.name, south.name) == ("north", "south")
    assert {(s.answer, s.meta["label"], s.meta["classes"]) for s in north.train} == {("sea eagle", 1, "base")}
    assert [len(north.train), len(north.test)] == [3, 2]
    assert {(s.answer, s.meta["label"]) for s in (*south.train, *south.test)} == {
        ("snow owl", 0),
        ("kite", 2),
    }
    assert [len(south.train), len(south.test)] == [5, 5]
    assert {s.meta["own"] for s in (*south.train, *south.test)} == {(0, 2)}
    assert source(birds).classes().base == ("snow owl", "sea eagle", "kite")


def test_common_pictures_are_nobodys_and_have_labels_in_their_own_part(birds) -> None:
    sets = source(birds).load_common(0)
    assert list(sets) == ["base", "novel"]
    assert [(s.answer, s.meta["label"]) for s in sets["base"]] == [("kite", 2)]
    assert [(s.answer, s.meta["label"]) for s in sets["novel"]] == [("osprey", 0)] * 2
    held = {s.uid for c in source(birds).load(0) for s in (*c.train, *c.test)}
    assert not held & {s.uid for own in sets.values() for s in own}


def test_a_client_alone_has_the_samples_that_it_has_beside_others(birds, tmp_path_factory) -> None:
    alone = tmp_path_factory.mktemp("alone")
    (birds / "south").rename(alone / "south")
    write(birds / "south" / "kite", 4)
    write(birds / "south" / "snow_owl", 6)
    [one] = source(alone).load(0)
    _, beside = source(birds).load(0)
    assert [s.uid for s in one.train] == [s.uid for s in beside.train]
    assert [s.uid for s in one.test] == [s.uid for s in beside.test]
    assert source(alone).load_common(0) == {}


def test_a_broken_common_picture_is_refused_or_left_out(birds) -> None:
    (birds / "common" / "osprey" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ExperimentError, match=r"common/osprey/0\.png cannot be used"):
        source(birds).load(0)
    spared = source(birds, skip_bad=True, max_skipped=0.5)
    spared.load(0)
    assert len(spared.load_common(0)["novel"]) == 1


def test_a_class_in_common_outside_the_list_is_one_sentence(birds) -> None:
    write(birds / "common" / "dodo", 1)
    with pytest.raises(ExperimentError, match="dodo is none of the 4 classes agreed on"):
        source(birds).load_common(0)
