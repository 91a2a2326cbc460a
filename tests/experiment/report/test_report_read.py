import json
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.report.load_study import gather, read
from fedloom.experiment.report.read import read_run
from tests.experiment.report.report_folders import change, make_rows, make_run


def test_a_run_is_read_as_it_was_written(run: Path) -> None:
    study = read(run)
    one = study.rows["FedAvg-LoRA"][0]
    assert one.final("global/image/token_accuracy") == 0.6
    assert one.start("global/image/token_accuracy") == 0.3
    assert list(one.series("restoration_error")) == [1, 2, 3, 4]
    assert [entry.round for entry in one.ledger] == [1, 2, 3, 4]
    assert one.samples[1].spoken == "how many cubes are there"
    assert one.complete


def test_a_refused_or_a_silent_client_is_not_plainly_complete(tmp_path: Path) -> None:
    assert not read_run(make_run(tmp_path / "a", refused={"c1": "stale"})).complete
    silent = make_run(tmp_path / "b")
    lines = (silent / "ledger.jsonl").read_text().splitlines()
    entry = json.loads(lines[0]) | {"answered": ["c0", "c1"]}
    (silent / "ledger.jsonl").write_text("\n".join([json.dumps(entry), *lines[1:]]))
    assert read_run(silent).ledger[0].silent == ("c2",)
    assert not read_run(silent).complete


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", '{"name": "q"', "summary.json is not valid JSON"),
        ("summary.json", '{"name": "q"}', "status"),
        ("metrics.jsonl", '{"round": 0, "name": "a", "value": 1}\n{"round": 1, "na', "line 2"),
        ("metrics.jsonl", '{"round": 0, "name": "a", "value": "high"}', "value"),
        ("ledger.jsonl", '{"round": "first"}', "line 1"),
        ("experiment.yaml", "a: [1", "not valid YAML"),
        ("experiment.yaml", "- 1", "mapping"),
        ("experiment.yaml", None, "experiment.yaml is missing"),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("ledger.jsonl", None, "ledger.jsonl is missing"),
        ("summary.json", None, "fedloom run --resume"),
        ("samples/samples.json", "[{}]", "uid"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(run: Path, file: str, content: str | None, says: str) -> None:
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(ExperimentError) as caught:
        read(run)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="is no run folder"):
        read(tmp_path)
    with pytest.raises(ExperimentError, match="is no folder"):
        read(tmp_path / "absent")


def test_a_row_that_leads_out_of_the_folder_is_refused(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([{"row": "a", "seed": 0, "path": "../q"}]))
    with pytest.raises(ExperimentError, match="leads out"):
        read(folder)


def test_a_seed_named_twice_is_refused_and_not_counted_twice(rows: Path) -> None:
    entries = json.loads((rows / "rows.json").read_text())
    (rows / "rows.json").write_text(json.dumps([*entries, entries[0]]))
    with pytest.raises(ExperimentError, match="twice"):
        read(rows)


def test_a_figure_that_is_null_on_disk_stays_visible(run: Path) -> None:
    change(run / "summary.json", metrics={"global/image/token_accuracy": None})
    value = read_run(run).final("global/image/token_accuracy")
    assert value is not None
    assert value != value


def test_seeds_in_several_folders_are_pooled_only_if_the_experiment_is_the_same(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", seed=0)
    b = make_run(tmp_path / "b", seed=1)
    other = make_run(tmp_path / "other", seed=2, rounds=8)
    assert [len(runs) for runs in gather([a, b]).rows.values()] == [2]
    assert list(gather([a, b, other]).rows) == [f"FedAvg-LoRA ({a})", f"FedAvg-LoRA ({other})"]
    again = make_run(tmp_path / "again", seed=0)
    assert [len(runs) for runs in gather([a, again]).rows.values()] == [1, 1]
    with pytest.raises(ExperimentError, match="twice"):
        gather([a, a, a])


def test_rows_keep_their_order_and_seeds(tmp_path: Path) -> None:
    folder = make_rows(tmp_path / "r", {("b", 1): {}, ("a", 0): {}, ("b", 0): {}})
    assert {row: [run.summary.seed for run in runs] for row, runs in read(folder).rows.items()} == {
        "b": [1, 0],
        "a": [0],
    }
