"""What happens to samples whose files cannot be used: refused by name, or skipped, listed and capped."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sources import parse_source


def paint(path: Path, grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), grey, np.uint8)).save(path)


def spoil(path: Path) -> None:
    """Garbage among the pixels, the length as before."""
    data = path.read_bytes()
    at = data.index(b"IDAT") + 6
    path.write_bytes(data[:at] + b"garbage" + data[at + 7 :])


def silo(root: Path) -> Path:
    """A client of ten pictures, of which the third and the sixth cannot be used and the seventh is missing."""
    lines = [{"image": f"{i}.png", "question": "what?", "answer": f"a{i}"} for i in range(10)]
    for i in range(10):
        paint(root / "ann" / f"{i}.png")
    spoil(root / "ann/2.png")
    spoil(root / "ann/5.png")
    (root / "ann/6.png").unlink()
    (root / "ann/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


def classes(root: Path) -> Path:
    """Two classes in train and test folders; a training and a test picture of class a cannot be used."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            for i in range(4):
                paint(root / part / name / f"{i}.png", 10 * i)
    spoil(root / "train/a/1.png")
    spoil(root / "test/a/2.png")
    return root


def labelled(root: Path) -> Path:
    lines = [{"file_name": f"{i}.png", "label": "ab"[i % 2], "text": "grey"} for i in range(40)]
    for i in range(40):
        paint(root / f"{i}.png", i)
    spoil(root / "7.png")
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


def captioned(root: Path) -> Path:
    lines = [{"file_name": f"{i}.png", "caption": f"number {i}"} for i in range(10)]
    for i in range(10):
        paint(root / "mine" / f"{i}.png", i)
    spoil(root / "mine/4.png")
    (root / "mine/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


SOURCES = {
    "folder": (silo, {}, 3, 10, "'2.png' cannot be used"),
    "classes": (
        classes,
        {"dataset": "mine", "clients": {"image": 1}, "partition": {"kind": "labeldir", "least": 1}},
        2,
        16,
        "1.png cannot be used",
    ),
    "labelled": (
        labelled,
        {"dataset": "mine", "clients": {"image": 1}, "train": 20, "test": 10},
        1,
        31,
        "7.png is no readable picture",
    ),
    "captions": (captioned, {"clients": {"image": 1}, "train": 6, "test": 4}, 1, 10, "cannot be used"),
}


@pytest.fixture(params=SOURCES)
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    make, fields, *expected = SOURCES[request.param]
    return {"source": request.param, "path": make(tmp_path / "data"), **fields}, *expected


def test_unusable_files_are_skipped_listed_and_capped(case) -> None:
    fields, bad, count, says = case
    clients = parse_source({**fields, "skip_bad": True, "max_skipped": 0.4}).load(0)
    skipped = [sentence for client in clients for sentence in client.skipped]
    assert len(skipped) == bad
    assert any(says in sentence for sentence in skipped)
    kept = [s for client in clients for s in (*client.train, *client.test)]
    assert len(kept) + bad == count
    assert all(s.modalities["image"].shape == (3, 6, 6) for s in kept)
    with pytest.raises(ExperimentError, match=r"data\.max_skipped allows a share of 0\.001") as caught:
        parse_source({**fields, "skip_bad": True, "max_skipped": 0.001}).load(0)
    assert "\n" not in str(caught.value)


def test_without_skip_bad_the_first_is_named_and_skip_bad_mentioned(case) -> None:
    fields, _, _, says = case
    if fields["source"] == "folder":
        paint(fields["path"] / "ann/6.png")
    with pytest.raises(ExperimentError, match=r"data\.skip_bad: true leaves such samples out") as caught:
        parse_source(fields).load(0)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "tabletop", "skip_bad": True}, "data.skip_bad is not read by source tabletop"),
        ({"source": "captions", "skip_bad": True}, "skip_bad is about media files"),
        ({"source": "classes", "dataset": "digits", "media": {"pixels": 9}}, "media is about media files"),
        ({"source": "folder", "path": "x", "max_skipped": 0.2}, "max_skipped is read with data.skip_bad"),
        ({"source": "folder", "path": "x", "media": {"pixel": 9}}, "did you mean pixels?"),
        ({"source": "folder", "path": "x", "media": {"aspect": 0.5}}, "data.media.aspect"),
    ],
)
def test_settings_that_nothing_reads_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        parse_source(fields)
    assert says in str(caught.value)


def test_the_status_counts_skipped_samples() -> None:
    from fedloom.experiment.build import skipped_samples
    from fedloom.federation.progress import Totals

    clients = [ClientData("a", ["x"] * 50, ["y"] * 10, ["s"] * 2), ClientData("b", ["x"] * 57, [], ["s"])]
    assert skipped_samples(clients) == "3 of 120 samples skipped: unusable files"
    assert Totals().status(skipped=skipped_samples(clients)).startswith("complete, but 3 of 120 samples")
    assert skipped_samples([ClientData("a", ["x"], [])]) == ""


# Names that differ in how their accents are composed

COMPOSED, DECOMPOSED = "\u00e9.png", "e\u0301.png"


@pytest.mark.parametrize(("table", "disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_spelt_otherwise_on_the_disk_is_found(tmp_path: Path, table: str, disk: str) -> None:
    for place in ("silos/ann/sub", "labelled"):
        paint(tmp_path / place / disk)
    record = {"image": f"sub/{table}", "question": "what?", "answer": "x"}
    (tmp_path / "silos/ann/metadata.jsonl").write_text(json.dumps(record), encoding="utf-8")
    [client] = parse_source({"source": "folder", "path": tmp_path / "silos"}).load(0)
    assert client.train[0].modalities["image"].shape == (3, 6, 6)
    from fedloom.data.sources.labelled_files import read_pool

    line = {"file_name": table, "label": "a", "text": "grey"}
    (tmp_path / "labelled/metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert len(read_pool(tmp_path / "labelled").pictures) == 1


def test_two_spellings_of_a_third_are_refused(tmp_path: Path) -> None:
    spellings = ["\u1ec7.png", "\u1eb9\u0302.png", "e\u0323\u0302.png"]  # e with circumflex and dot below
    for name in spellings[1:]:
        paint(tmp_path / "ann" / name)
    record = {"image": spellings[0], "question": "what?", "answer": "x"}
    (tmp_path / "ann/metadata.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"2 files in .* have this name in other Unicode spellings"):
        parse_source({"source": "folder", "path": tmp_path}).load(0)


def test_class_folders_spelt_in_two_ways_are_one_class(tmp_path: Path) -> None:
    for part, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        for i in range(2):
            paint(tmp_path / part / name / f"{i}.png")
            paint(tmp_path / part / "bar" / f"{i}.png")
    fields = {
        "source": "classes",
        "dataset": "mine",
        "clients": {"image": 1},
        "partition": {"kind": "labeldir", "least": 1},
    }
    source = parse_source({**fields, "path": tmp_path})
    assert source.pictures(0).names == ("bar", "caf\u00e9")
    assert len(source.load(0)[0].test) == 4
