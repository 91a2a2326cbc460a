"""`data.partition` of every source that has it: tables, folders of clients, the small world and labelled texts."""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import parse_source
from tests.data.tables.tables import files, image_table, lines, load


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def topics(path: Path, count: int = 60) -> Path:
    """Questions of three topics, each with its writer."""
    return lines(
        path,
        [
            {
                "question": f"q{i}",
                "answer": f"a{i}",
                "topic": "abc"[i % 3],
                "writer": f"w{i % 2}",
                "label": i % 5,
            }
            for i in range(count)
        ],
    )


def split(clients: Any, values: str) -> list[Counter[str]]:
    """How many samples of each topic, letter by letter, a client holds."""
    return [Counter(values[int(s.uid) - 1] for s in (*c.train, *c.test)) for c in clients]


def test_a_table_by_any_column(tmp_path: Path) -> None:
    file = topics(tmp_path / "x.jsonl")
    clients = load(file, clients=3, partition={"kind": "dirichlet", "over": "topic", "beta": 0.05})
    assert [c.name for c in clients] == ["client-01", "client-02", "client-03"]
    assert sum(len(c.train) + len(c.test) for c in clients) == 60
    assert max(max(c.values()) / sum(c.values()) for c in split(clients, "abc" * 20)) > 0.8
    assert clients[0].train[0].meta["columns"]["topic"] in "abc"
    assert not any("not read" in note and "topic" in note for note in clients[0].notes)


def test_a_table_by_its_label_domain_or_client(tmp_path: Path) -> None:
    file = topics(tmp_path / "x.jsonl")
    shots = load(file, clients=5, partition={"kind": "few-shot", "shots": 4})
    assert [(len(c.train), len(c.test)) for c in shots] == [(4, 8)] * 5
    domains = load(file, partition={"kind": "domain", "over": "topic"})
    assert [c.name for c in domains] == ["a", "b", "c"]
    assert [len(c.train) + len(c.test) for c in domains] == [20, 20, 20]
    assert load(file, partition={"kind": "column", "over": "writer"}) is not None
    assert [c.name for c in load(file, partition={"kind": "column", "over": "topic"})] == ["a", "b", "c"]
    assert [c.name for c in load(file, partition={"kind": "column"})] == ["w0", "w1"]


def test_rows_about_one_picture_stay_in_one_client_and_part(tmp_path: Path) -> None:
    table = image_table(6, answer=list("abcdef"), topic=list("xxxyyy"))
    datasets.concatenate_datasets([table] * 4).to_parquet(tmp_path / "x.parquet")
    for kind in ("dirichlet", "quantity"):
        over = {"over": "topic"} if kind == "dirichlet" else {}
        clients = load(tmp_path / "x.parquet", clients=2, partition={"kind": kind, "least": 1, **over})
        parts = [{s.answer for s in part} for c in clients for part in (c.train, c.test)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 6


def test_a_column_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    file = topics(tmp_path / "x.jsonl")
    with pytest.raises(
        ExperimentError, match=r"data.partition.over: .* has no column 'colour'; it has question"
    ):
        load(file, clients=2, partition={"kind": "dirichlet", "over": "colour"})
    bare = lines(tmp_path / "y.jsonl", [{"question": f"q{i}", "answer": f"a{i}"} for i in range(30)])
    with pytest.raises(ExperimentError, match="splits by a label, and these samples have none"):
        load(bare, clients=2, partition={"kind": "dirichlet"})


def silos(root: Path) -> Path:
    """Two clients of ten pictures in the plain spelling, and one with a table."""
    for name in ("one", "two"):
        names = files(root / name, 10)
        records = [{"image": n, "question": "what?", "answer": f"{name}{i}"} for i, n in enumerate(names)]
        lines(root / name / "metadata.jsonl", records)
    lines(root / "three" / "data.jsonl", [{"question": f"q{i}", "answer": f"three{i}"} for i in range(10)])
    return root


def test_the_samples_of_all_folders_are_dealt_anew(tmp_path: Path) -> None:
    source = {"source": "folder", "path": silos(tmp_path / "silos")}
    clients = parse_source({**source, "clients": 4, "partition": {"kind": "iid"}}).load(0)
    uids = [s.uid for c in clients for s in (*c.train, *c.test)]
    assert [c.name for c in clients] == ["client-01", "client-02", "client-03", "client-04"]
    assert len(uids) == len(set(uids)) == 30
    answers = {s.answer: c.name for c in clients for s in (*c.train, *c.test)}
    assert all(answers[f"one{i}"] == answers[f"two{i}"] for i in range(10))  # copies of one picture
    by_kind = parse_source(
        {**source, "clients": {"image": 2, "text": 1}, "partition": {"kind": "modality"}}
    ).load(0)
    assert [(c.name, c.holds) for c in by_kind] == [
        ("image-01", ("image",)),
        ("image-02", ("image",)),
        ("text-01", ()),
    ]
    natural = parse_source({**source, "partition": {"kind": "folder"}}).load(0)
    plain = parse_source(source).load(0)
    assert [[s.uid for s in c.train] for c in natural] == [[s.uid for s in c.train] for c in plain]


def test_folders_are_dealt_by_a_column_of_their_records_or_as_domains(tmp_path: Path) -> None:
    root = silos(tmp_path / "silos")
    for name in ("one", "two"):
        records = [
            {"image": f"{i}.png", "question": "what?", "answer": f"{i}", "topic": "ab"[i % 2]}
            for i in range(10)
        ]
        lines(root / name / "metadata.jsonl", records)
    lines(
        root / "three" / "data.jsonl", [{"question": "q", "answer": f"{i}", "topic": "b"} for i in range(10)]
    )
    source = {"source": "folder", "path": root}
    by_topic = parse_source({**source, "partition": {"kind": "domain", "over": "topic"}}).load(0)
    assert [(c.name, len(c.train) + len(c.test)) for c in by_topic] == [("a", 10), ("b", 20)]
    for name in ("x", "y"):
        lines(
            tmp_path / "texts" / name / "t.jsonl",
            [{"question": f"{name}{i}", "answer": "a"} for i in range(8)],
        )
    plain = {"source": "folder", "path": tmp_path / "texts", "clients": 4, "partition": {"kind": "domain"}}
    assert [c.name for c in parse_source(plain).load(0)] == ["x-01", "x-02", "y-01", "y-02"]


def test_a_bad_file_is_named_with_its_folder_and_line(tmp_path: Path) -> None:
    root = silos(tmp_path / "silos")
    (root / "two" / "3.png").write_bytes(b"no picture")
    fields = {"source": "folder", "path": root, "clients": 2, "partition": {"kind": "iid"}}
    with pytest.raises(ExperimentError, match="Client 'two', line 4 of"):
        parse_source(fields).load(0)
    clients = parse_source({**fields, "skip_bad": True}).load(0)
    assert sum(len(c.skipped) for c in clients) == 1
    assert sum(len(c.train) + len(c.test) for c in clients) == 29


def test_the_small_world_is_dealt_anew() -> None:
    data = {"clients": {"image": 1, "audio": 1}, "train": 12, "test": 6}
    plain = {s.uid for c in parse_source(data).load(0) for s in c.train}
    clients = parse_source({**data, "partition": {"kind": "iid"}}).load(0)
    assert [(c.name, len(c.train), len(c.test)) for c in clients] == [
        ("client-01", 12, 6),
        ("client-02", 12, 6),
    ]
    assert {s.uid for c in clients for s in c.train} == plain
    assert all(c.holds == ("image", "audio") for c in clients)
    with pytest.raises(ExperimentError, match="kind column is for data in files"):
        parse_source({**data, "partition": {"kind": "column"}}).load(0)


def test_labelled_texts_of_unequal_sizes() -> None:
    data = {"source": "text", "clients": {"text": 3}, "train": 20, "test": 10}
    clients = parse_source({**data, "partition": {"kind": "quantity", "law": "power"}}).load(0)
    assert [len(c.train) for c in clients] == [31, 17, 12]
    skewed = parse_source({**data, "partition": {"kind": "dirichlet", "beta": 0.05}}).load(0)
    assert max(Counter(s.answer for s in c.train).most_common(1)[0][1] / len(c.train) for c in skewed) > 0.6
