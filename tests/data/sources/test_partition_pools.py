"""`data.partition` of the sources that draw their clients from one pool: labelled pictures and captioned pictures."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sources import parse_source
from fedloom.experiment.settings import Experiment

SILOS = ("north", "south", "west")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pictures(folder: Path, count: int, entries: Callable[[int], dict[str, Any]], first: int = 0) -> Path:
    """Pictures that all differ, with a text, and further entries of metadata.jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for i in range(count):
        Image.new("RGB", (4, 4), (first + i, 3 * i % 256, 0)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"text {i}", **entries(i)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def flowers(folder: Path, count: int = 60) -> Path:
    """Labelled pictures of three silos and two styles."""
    return pictures(
        folder,
        count,
        lambda i: {"label": ("rose", "daisy", "lily", "iris")[i % 4], "client": SILOS[i % 3], "style": i % 2},
    )


def labelled(path: Path | None, partition: dict[str, Any], **fields: Any) -> list[ClientData]:
    given = {"clients": {"image": 2, "text": 1}, "train": 12, "test": 6, **fields}
    own = {"dataset": "handwriting"} if path is None else {"dataset": "flowers", "path": path}
    return parse_source({"source": "labelled", **own, **given, "partition": partition}).load(0)


def captions(path: Path | None, partition: dict[str, Any], **fields: Any) -> list[ClientData]:
    own = {} if path is None else {"path": path}
    given = {"train": 9, "test": 3, **own, **fields}
    return parse_source({"source": "captions", **given, "partition": partition}).load(0)


def counts(clients: Sequence[ClientData]) -> list[tuple[str, int, int]]:
    uids = [s.uid for c in clients for s in (*c.train, *c.test)]
    assert len(uids) == len(set(uids))
    return [(c.name, len(c.train), len(c.test)) for c in clients]


@pytest.mark.parametrize("kind", ["iid", "modality"])
def test_labelled_clients_of_equal_parts(kind: str) -> None:
    clients = labelled(None, {"kind": kind})
    assert counts(clients) == [("image-01", 12, 6), ("image-02", 12, 6), ("text-01", 12, 6)]
    assert [c.holds for c in clients] == [("image",), ("image",), ()]


def test_labelled_clients_by_size_and_by_label(tmp_path: Path) -> None:
    sized = labelled(None, {"kind": "quantity", "law": "power", "exponent": 2}, clients={"image": 3})
    assert [n for _, n, _ in counts(sized)] == sorted((n for _, n, _ in counts(sized)), reverse=True)
    assert sum(n for _, n, _ in counts(sized)) == 36
    skewed = labelled(None, {"kind": "dirichlet", "beta": 0.05}, clients={"image": 3}, train=30)
    even = labelled(None, {"kind": "iid"}, clients={"image": 3}, train=30)
    classes = [sum(len({s.answer for s in c.train}) for c in dealt) for dealt in (skewed, even)]
    assert classes[0] < 20 < 25 < classes[1]  # of ten classes at three clients
    few = labelled(None, {"kind": "few-shot", "shots": 2}, clients={"image": 2, "audio": 2}, train=40)
    for modality in ("image", "audio"):
        one, two = ({s.answer for s in c.train} for c in few if c.holds == (modality,))
        assert len(one) == len(two) == 5
        assert not one & two
    assert max(Counter(s.answer for s in few[0].train).values()) == 2
    assert any("image: " in note and "left out" in note for note in few[0].notes)


def test_one_modality_does_not_follow_the_draw_of_another() -> None:
    skew = {"kind": "dirichlet", "beta": 0.1}
    clients = labelled(None, skew, clients={"image": 2, "audio": 2}, train=40)
    held = {c.name: {s.answer for s in c.train} for c in clients}
    assert held["image-01"] != held["audio-01"]


def test_labelled_files_by_their_own_clients_and_columns(tmp_path: Path) -> None:
    path = flowers(tmp_path / "flowers")
    natural = labelled(path, {"kind": "column"}, train=100, test=50)
    assert [(n, a + b) for n, a, b in counts(natural)] == [("north", 20), ("south", 20), ("west", 20)]
    assert [c.holds for c in natural] == [("image",), ("image",), ()]
    assert {s.meta["columns"]["client"] for s in natural[0].train} == {"north"}
    assert [len(c.test) for c in natural] == [7, 7, 7]  # a third of the samples, as test to train + test
    capped = labelled(path, {"kind": "column", "over": "client"}, train=5, test=2)
    assert counts(capped) == [("north", 5, 2), ("south", 5, 2), ("west", 5, 2)]
    domains = labelled(path, {"kind": "domain", "over": "style"}, clients={"image": 2, "text": 2}, train=9)
    assert [c.name for c in domains] == ["image-0", "image-1", "text-0", "text-1"]
    assert all({s.meta["columns"]["style"] for s in c.train} == {int(c.name[-1])} for c in domains)
    skew = labelled(path, {"kind": "dirichlet", "over": "style", "beta": 0.05, "least": 1})
    assert {s.meta["columns"]["style"] for c in skew for s in c.train} == {0, 1}


@pytest.mark.parametrize(
    ("partition", "says"),
    [
        ({"kind": "column", "over": "ward"}, "no column 'ward'; known are client, label, style"),
        ({"kind": "column", "over": "style"}, "counts 3 clients, and the column 'style' names 2"),
        ({"kind": "domain"}, r"data\.partition\.over is missing"),
        ({"kind": "folder"}, "data.partition.classes is missing"),
        ({"kind": "dirichlet", "over": "colour"}, "no column 'colour'; known are client, label, style"),
    ],
)
def test_what_labelled_files_cannot_be_dealt_by(tmp_path: Path, partition: dict, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        labelled(flowers(tmp_path / "flowers"), partition)


def silos(root: Path) -> Path:
    """Captioned pictures in two folders, each of two styles."""
    for number, name in enumerate(("cc", "sbu")):
        pictures(root / name, 20, lambda i: {"style": "ab"[i % 2], "site": SILOS[i % 3]}, first=100 * number)
    return root


def test_captions_of_the_small_world(tmp_path: Path) -> None:
    equal = captions(None, {"kind": "iid"}, clients={"image": 2})
    assert counts(equal) == [("image-01", 9, 3), ("image-02", 9, 3)]
    topics = captions(None, {"kind": "dirichlet", "over": "topic", "beta": 0.05}, train=30)
    assert sum(n for _, n, _ in counts(topics)) == 90
    mixes = [Counter(s.meta["topic"] for s in c.train) for c in topics]
    assert max(max(mix.values()) / mix.total() for mix in mixes) > 0.25
    with pytest.raises(ExperimentError, match="no column 'colour'; known are style, topic"):
        captions(None, {"kind": "few-shot", "over": "colour"})
    with pytest.raises(ExperimentError, match="splits by a label, and these samples have none"):
        captions(None, {"kind": "dirichlet"})
    for kind in ("column", "folder"):
        with pytest.raises(ExperimentError, match=f"kind {kind} is for files that name their clients"):
            captions(None, {"kind": kind})


def test_own_captions_by_folder_column_and_value(tmp_path: Path) -> None:
    root = silos(tmp_path / "data")
    folders = captions(root, {"kind": "folder"})
    assert counts(folders) == [("cc", 9, 3), ("sbu", 9, 3)]
    assert all(s.uid.startswith(c.name) for c in folders for s in (*c.train, *c.test))
    domains = captions(root, {"kind": "domain"}, clients={"image": 2})
    assert [c.name for c in domains] == ["cc", "sbu"]
    sites = captions(root, {"kind": "column", "over": "site"}, train=50, test=10)
    assert [c.name for c in sites] == [*SILOS]
    assert sum(len(c.train) + len(c.test) for c in sites) == 40
    assert {s.meta["columns"]["site"] for s in sites[0].train} == {"north"}
    shots = captions(
        root, {"kind": "few-shot", "over": "style", "shots": 4}, clients={"image": 2}, train=15, test=5
    )
    assert [len(c.train) for c in shots] == [4, 4]
    assert not {s.answer for s in shots[0].train} & {s.answer for s in shots[1].train}
    with pytest.raises(
        ExperimentError, match="no column 'ward' of texts or numbers; known are site, style, t"
    ):
        captions(root, {"kind": "column", "over": "ward"})
    with pytest.raises(ExperimentError, match=r"needs a data\.path with a folder for each source"):
        captions(root / "cc", {"kind": "folder"})


def test_captions_of_one_picture_stay_with_one_client_and_part(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cc", 12, lambda i: {})
    file = folder / "metadata.jsonl"
    file.write_text("\n".join([file.read_text()] * 2))  # every picture twice
    for kind in ("iid", "quantity"):
        for client in captions(folder, {"kind": kind}, clients={"image": 2}, train=8, test=3):
            parts = [{s.answer for s in client.train}, {s.answer for s in client.test}]
            assert not parts[0] & parts[1]
        one, two = captions(folder, {"kind": kind}, clients={"image": 2}, train=8, test=3)
        assert not {s.answer for s in one.train} & {s.answer for s in (*two.train, *two.test)}


def test_an_unusable_picture_is_left_out_and_named(tmp_path: Path) -> None:
    root = silos(tmp_path / "data")
    (root / "cc" / "4.png").write_bytes(b"no picture")
    with pytest.raises(ExperimentError, match=r"row 4 of .* cannot be used"):
        captions(root, {"kind": "iid"}, clients={"image": 2}, train=16, test=4)
    clients = captions(root, {"kind": "iid"}, clients={"image": 2}, train=16, test=4, skip_bad=True)
    assert sum(len(c.train) + len(c.test) for c in clients) == 39
    assert [len(c.skipped) for c in clients] == [1, 0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            {"source": "captions", "captions": {"scenario": "topic"}},
            r"data\.captions\.scenario is read only with",
        ),
        ({"source": "captions", "captions": {"least": 5}}, r"data\.captions\.least is read only with"),
        (
            {"source": "labelled", "dirichlet": 0.1},
            r"data\.dirichlet is read only with data\.partition: none",
        ),
    ],
)
def test_settings_of_the_sources_own_deal_are_not_read_beside_a_partition(data: dict, says: str) -> None:
    method = "fedavg" if data["source"] == "captions" else "fedmd"
    with pytest.raises(ExperimentError, match=says):
        Experiment.parse({"method": method, "data": {**data, "partition": {"kind": "iid"}}})


def test_the_number_of_clients_is_not_read_with_natural_ones(tmp_path: Path) -> None:
    data = {"source": "captions", "path": str(silos(tmp_path / "data")), "clients": {"image": 7}}
    Experiment.parse({"method": "fedavg", "data": {**data, "partition": {"kind": "iid"}}})
    with pytest.raises(ExperimentError, match=r"data\.clients is read only with data\.partition\.kind other"):
        Experiment.parse({"method": "fedavg", "data": {**data, "partition": {"kind": "folder"}}})


@pytest.mark.parametrize("source", ["labelled", "captions", "text", "classes"])
def test_missing_modalities_are_refused_where_samples_have_one(source: str) -> None:
    with pytest.raises(ExperimentError, match=f"data.missing is not read by source {source}, because"):
        parse_source({"source": source, "missing": {"image": 0.3}})


@pytest.mark.parametrize("source", ["labelled", "captions"])
def test_the_data_command_draws_the_deal(tmp_path: Path, source: str) -> None:
    method = "fedavg" if source == "captions" else "fedmd"
    over = "style" if source == "captions" else "label"
    (tmp_path / "e.yaml").write_text(
        f"method: {method}\n"
        f"data: {{source: {source}, clients: {{image: 2}}, train: 12, test: 8, partition: {{kind: dirichlet, over: {over}}}}}\n"
    )
    shown = CliRunner().invoke(app, ["data", str(tmp_path / "e.yaml"), "--show", "0"], catch_exceptions=False)
    assert f"samples by {over}, of at most" in shown.output
    assert "image-02" in shown.output
