"""Studies whose rows are spread over tasks or the like: the paper's layout, averages, parts of the page."""

import json
import re
from pathlib import Path

import pytest
import rich.console
import yaml

from fedloom.experiment.report import comparison, read, write_report
from fedloom.experiment.report.columns import AVERAGE
from fedloom.experiment.report.load_study import gather
from fedloom.experiment.report.predictions import majority
from fedloom.experiment.report.read import read_run
from tests.experiment.report.report_folders import change, make_run, make_two_rows, write_lines

KEY = "global/text/accuracy"


def make_tasks(folder: Path, figures: dict[tuple[str, str, int], float], columns: list[str]) -> Path:
    """(row, task, seed) -> last-round accuracy; every run starts at 0.5."""
    entries = []
    for (row, task, seed), value in figures.items():
        path = f"{row}/{task}/seed-{seed}"
        run = make_run(folder / path, row=row, seed=seed, rounds=2)
        experiment = {"name": "table4", "row": row, "across": task, "seed": seed, "columns": columns}
        (run / "experiment.yaml").write_text(yaml.safe_dump(experiment))
        rising = {0: 0.5, 1: 0.4, 2: value}
        write_lines(run / "metrics.jsonl", [{"round": r, "name": KEY, "value": v} for r, v in rising.items()])
        metrics = {KEY: value, "start": {KEY: 0.5, "mean_client/text/accuracy": 0.5}}
        clients = [
            {"client": c, "metrics": {"text/accuracy": value + d}} for c, d in (("a", 0.1), ("b", -0.2))
        ]
        change(run / "summary.json", name="table4", metrics=metrics, clients=clients)
        answers = [
            {"uid": f"u{i}", "client": "a", "kind": "text", "reference": r, "prediction": "no"}
            for i, r in enumerate(["yes", "no", "no"])
        ]
        write_lines(run / "predictions-start.jsonl", answers)
        entries.append({"row": row, "across": task, "seed": seed, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


FIGURES = {
    ("LoRA", "RTE", 0): 0.6,
    ("LoRA", "RTE", 1): 0.7,
    ("LoRA", "QQP", 0): 0.8,
    ("LoRA", "QQP", 1): 1.0,
    ("VeRA", "RTE", 0): 0.5,
    ("VeRA", "QQP", 0): 0.9,
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return make_tasks(tmp_path / "t", FIGURES, [KEY])


def test_one_metric_gives_a_column_per_task_and_their_average(tasks: Path) -> None:
    table = comparison(tasks)
    assert table.title == "table4: text: accuracy"
    assert [c.title for c in table.columns] == ["RTE", "QQP", AVERAGE]
    text = table.markdown()
    assert "| LoRA | 2 | 65.0 ± 7.1 | 90.0 ± 14.1 | 77.5 ± 10.6 |" in text
    assert "| VeRA | 1 | 50.0 | 90.0 | 70.0 |" in text


def test_several_metrics_stand_under_every_task_without_an_average(tasks: Path) -> None:
    table = comparison(tasks, [KEY, "bytes_up"])
    assert [c.title for c in table.columns] == [
        *("RTE, text: accuracy", "RTE, bytes up"),
        *("QQP, text: accuracy", "QQP, bytes up"),
    ]
    cell = table.cell("VeRA", f"QQP: {KEY}")
    assert cell is not None
    assert cell.mean == 0.9


def test_a_seed_without_one_of_the_tasks_has_no_average(tmp_path: Path) -> None:
    figures = {key: v for key, v in FIGURES.items() if key != ("VeRA", "QQP", 0)}
    text = comparison(make_tasks(tmp_path / "t", figures, [KEY])).markdown()
    assert "| VeRA | 1 | 50.0 | — | — |" in text


def test_clients_own_figures_and_the_round_above_the_majority(tasks: Path) -> None:
    table = comparison(tasks, ["clients/text/accuracy", "above_majority"])
    own = table.cell("VeRA", "RTE: clients/text/accuracy")
    assert own is not None
    assert own.mean == pytest.approx(0.45)  # (0.6 + 0.3) / 2
    above = table.cell("VeRA", "QQP: above_majority")
    assert above is not None
    assert above.mean == 2  # the majority is 2/3
    assert table.cell("VeRA", "RTE: above_majority") is None
    assert table.columns[0].title == "RTE, accuracy, clients' mean"


def test_the_round_above_the_majority_is_that_of_the_clients_own_models(tasks: Path) -> None:
    file = tasks / "VeRA" / "QQP" / "seed-0" / "metrics.jsonl"
    of_clients = [
        {"round": r, "name": f"{scope}mean_client/text/accuracy", "value": value}
        for scope, values in (("", (0.5, 0.7, 0.9)), ("local/", (0.5, 0.9, 0.6)))
        for r, value in enumerate(values)
    ]

    def above(records: list[dict[str, object]]) -> float | None:
        write_lines(file, [{"round": 2, "name": KEY, "value": 0.9}, *records])
        found = comparison(tasks, ["above_majority"]).cell("VeRA", "QQP: above_majority")
        return found and found.mean

    assert above(of_clients[:3]) == 1  # the global model on each client's samples
    assert above(of_clients) is None  # the clients' own fall below 2/3 again


def test_every_client_has_a_majority_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q")
    labels = {"a": ["yes"] * 9 + ["no"], "b": ["no"] * 4}
    answers = [
        {"uid": f"{client}{i}", "client": client, "kind": "text", "reference": r, "prediction": "no"}
        for client, own in labels.items()
        for i, r in enumerate(own)
    ]
    write_lines(run / "predictions-start.jsonl", answers)
    assert majority(read_run(run)) == pytest.approx(0.95), "9/14 of all samples say yes"


def test_rows_and_tasks_of_two_folders_are_pooled_as_seeds(tmp_path: Path) -> None:
    parts = [
        make_tasks(tmp_path / f"s{seed}", {k: v for k, v in FIGURES.items() if k[2] == seed}, [KEY])
        for seed in (0, 1)
    ]
    assert gather(parts).across == ("RTE", "QQP")
    assert "| LoRA | 2 | 65.0 ± 7.1 | 90.0 ± 14.1 | 77.5 ± 10.6 |" in comparison(parts).markdown()


def test_the_page_draws_every_task_and_names_it(tasks: Path) -> None:
    text = write_report(tasks).read_text(encoding="utf-8")
    assert "<figcaption>RTE, text: accuracy</figcaption>" in text
    assert "<figcaption>QQP, text: accuracy</figcaption>" in text
    assert '<th scope="row">before training' in text
    assert "LoRA, RTE" in text


def test_parts_keep_the_order_of_the_rows_for_their_colours(tmp_path: Path) -> None:
    figures = {key: v for key, v in FIGURES.items() if key[:2] != ("LoRA", "QQP")}
    parts = read(make_tasks(tmp_path / "t", figures, [KEY])).parts()
    assert list(parts["QQP"].rows) == ["LoRA", "VeRA"]


def test_columns_of_the_experiment_are_the_default_and_find_the_embedder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q")
    f = "global/image/bertscore_f"
    experiment = {"name": "q", "columns": [f, "global/image/meteor"]}
    (run / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    metrics = {f"{f}[minilm:6]": 0.81, "global/image/meteor_exact": 0.5}
    change(run / "summary.json", metrics=metrics)
    table = comparison(run)
    assert [c.title for c in table.columns] == ["image: BERTScore F", "image: METEOR (exact)"]
    assert "BERTScore by minilm:6" in table.markdown()
    assert "| 81.0 | 50.0 |" in table.markdown()


def test_single_layers_stand_only_in_their_own_table(tmp_path: Path) -> None:
    rows = make_two_rows(tmp_path / "demo")
    for metrics in rows.glob("*/*/metrics.jsonl"):
        lines = metrics.read_text().splitlines()
        for place in ("llm/layers.2.q", "llm/layers.10.q"):
            for name in ("restoration_error", "cosine_A", "cosine_B", "angle"):
                record = {"round": 4, "name": f"layer/{place}/{name}", "value": 0.25}
                lines.append(json.dumps(record))
        metrics.write_text("\n".join(lines) + "\n")
    assert not [n for n in read(rows).names() if n.startswith("layer/")]
    text = write_report(rows).read_text(encoding="utf-8")
    assert text.index("llm/layers.2.q") < text.index("llm/layers.10.q")
    assert text.count('<th scope="row">llm/layers.2.q</th>') == 2  # one table per row
    assert text.count("LLM: similarity") >= 2
    assert "over adapted layers; last adapted layer: A 0.2500 ± 0.0000; B 0.2500 ± 0.0000" in text
    curves = re.search(r'<section id="curves">.*?</section>', text, re.DOTALL)
    assert curves is not None
    assert "layer" not in curves.group(0)
    assert "restoration" not in curves.group(0)


def test_too_many_columns_come_task_by_task_in_a_terminal(tasks: Path) -> None:
    keys = [KEY, "bytes_up", "bytes_down", "seconds", "rounds"]
    console = rich.console.Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison(tasks, keys).rich())
    text = console.export_text()
    assert "table4, RTE" in text
    assert "table4, QQP" in text
    assert text.count("text: accuracy %") == 2
