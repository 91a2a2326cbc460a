import csv
import io
import math
from pathlib import Path

import pytest
import rich.console

from fedloom.experiment.report import comparison
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.table import BEFORE, table_of
from fedloom.experiment.report.units import Spread, arrow, human_bytes, show, unit_of, words
from tests.experiment.report.report_folders import change, make_rows, make_run


def test_figures_equal_means_and_deviations_worked_by_hand(rows: Path) -> None:
    table = comparison(rows)
    image = table.cell("FedAvg-LoRA", "global/image/token_accuracy")
    assert image is not None
    assert image.mean == pytest.approx(0.55)  # 0.5 and 0.6
    assert image.sd == pytest.approx(0.0707106781)  # sqrt(2 * 0.05^2 / 1)
    assert image.n == 2
    up = table.cell("FedAvg-LoRA", "bytes_up")
    assert up == Spread(2_000_000.0, pytest.approx(1_414_213.56), 2)  # 1 MB and 3 MB
    assert table.cell("FedAvg-LoRA", "seconds") == Spread(11.0, pytest.approx(1.41421356), 2)
    line = next(line for line in table.markdown().splitlines() if line.startswith("| FedAvg-LoRA"))
    assert line == (
        "| FedAvg-LoRA | 55.0 ± 7.1 | 45.0 ± 7.1 | 50.0 ± 0.0 | 40.0 ± 0.0 "
        "| 2.00 ± 1.41 MB | 4.00 ± 2.83 MB | 11.0 ± 1.4 s |"
    )


def test_one_seed_has_no_deviation(run: Path) -> None:
    assert comparison(run).cell("FedAvg-LoRA", "global/audio/exact_match") == Spread(0.4, None, 1)
    assert "±" not in comparison(run).markdown()


def test_default_columns_follow_the_modalities(run: Path) -> None:
    assert [column.key for column in comparison(run).columns] == [
        "global/image/token_accuracy",
        "global/image/exact_match",
        "global/audio/token_accuracy",
        "global/audio/exact_match",
        "bytes_up",
        "bytes_down",
        "seconds",
    ]
    change(run / "summary.json", metrics={"global/text/exact_match": 0.5})
    (run / "metrics.jsonl").write_text("")
    assert next(column.key for column in comparison(run).columns) == "global/text/exact_match"


def test_asked_columns_are_shown_and_a_missing_figure_is_a_dash(run: Path) -> None:
    table = comparison(run, ["trainable_parameters", "global/depth/exact_match"])
    assert "| 61,440 | — |" in table.markdown()


def test_a_row_that_is_not_plainly_complete_carries_its_remark(rows: Path) -> None:
    text = comparison(rows).markdown()
    assert "| FedA²-LoRA † |" in text
    assert "complete with refusals: 1 of 12 updates (1 of 2 runs)" in text
    assert "| FedAvg-LoRA |" in text


def test_a_figure_that_is_not_finite_is_not_averaged_away(tmp_path: Path) -> None:
    folder = make_rows(tmp_path / "r", {("a", 0): {}, ("a", 1): {}})
    change(folder / "a/seed-1/summary.json", metrics={"global/image/token_accuracy": None})
    spread = comparison(folder).cell("a", "global/image/token_accuracy")
    assert spread is not None
    assert math.isnan(spread.mean)
    assert "not finite" in comparison(folder).markdown()


def test_a_figure_of_fewer_seeds_than_the_row_says_so(tmp_path: Path) -> None:
    folder = make_rows(tmp_path / "r", {("a", 0): {}, ("a", 1): {"image": 0.8}})
    change(folder / "a/seed-1/summary.json", metrics={})
    (folder / "a/seed-1/metrics.jsonl").write_text("")
    assert "60.0 (of 1)" in comparison(folder, ["global/image/token_accuracy"]).markdown()


def test_the_line_before_training_stands_only_where_all_started_alike(rows: Path) -> None:
    assert table_of(read(rows), before=True).cell(BEFORE, "global/image/token_accuracy") == Spread(
        0.3, 0.0, 2
    )
    start = {"start": {"global/image/token_accuracy": 0.31}}
    change(rows / "feda2-lora/seed-0/summary.json", metrics=start)
    assert BEFORE not in table_of(read(rows), before=True).markdown()


def test_names_cannot_break_out_of_the_table(tmp_path: Path) -> None:
    table = comparison(make_run(tmp_path / "a", row="<b>[red]x|y"))
    assert "<b>" not in table.html()
    assert "&lt;b&gt;[red]x|y" in table.html()
    assert "&lt;b&gt;[red]x\\|y" in table.markdown()
    console = rich.console.Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table.rich())
    assert "<b>[red]x|y" in console.export_text()


def test_the_terminal_table_keeps_words_whole_on_eighty_columns(rows: Path) -> None:
    console = rich.console.Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison(rows).rich())
    text = console.export_text()
    assert "accuracy" in text
    assert "FedA²-LoRA †" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_500_000, "1.50 MB"),
        (2.5e9, "2.50 GB"),
        (3e12, "3.00 TB"),
    ],
)
def test_bytes_are_decimal(value: float, text: str) -> None:
    assert human_bytes(value) == text


def test_units_and_names_in_words() -> None:
    assert show(Spread(0.61, 0.021, 3), "percent") == "61.0 ± 2.1 %"
    assert show(90.0, "seconds") == "90.0 s"
    assert show(Spread(600.0, 60.0, 2), "seconds") == "10.0 ± 1.0 min"
    assert show(None, "bytes") == "—"
    assert show(1.5e-5, "number") == "1.50e-05"
    assert words("global/image/rouge_l") == "image: ROUGE-L"
    assert words("worst_client/audio/exact_match") == "worst client, audio: exact match"


@pytest.mark.parametrize(
    "metric", ["f1", "sentence_bleu", "bleu", "rouge_l", "accuracy_own_classes", "bertscore_f[x]"]
)
def test_shares_are_shown_in_percent(metric: str) -> None:
    assert unit_of(f"global/image/{metric}") == "percent"
    assert show(0.5, unit_of(f"local/image/{metric}")) == "50.0 %"


@pytest.mark.parametrize(
    "name", ["update/opposed", "vote/coverage", "fusion/image/max_weight", "fusion/image-00/weight"]
)
def test_other_shares_are_in_percent_too(name: str) -> None:
    assert unit_of(name) == "percent"


@pytest.mark.parametrize("name", ["global/image/samples", "tokens", "local/text/generated", "fusion/rank99"])
def test_counts_are_whole_numbers(name: str) -> None:
    assert show(132.0, unit_of(name)) == "132"
    assert show(Spread(132.0, 0.0, 2), unit_of(name)) == "132"
    assert (
        show(Spread(132.5, 0.70710678, 2), unit_of(name)) == "132.5 ± 0.7"
    )  # a mean over seeds may lie between


def test_a_deviation_is_written_as_its_mean_is() -> None:
    assert show(Spread(0.0349, 9.96e-4, 2), "number") == "0.0349 ± 0.0010"
    assert show(Spread(3.3e-8, 1.08e-9, 2), "number") == "3.30e-08 ± 1.08e-09"


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("global/image/exact_match", "↑"),
        ("control/image/zeroed/token_accuracy", "↑"),
        ("train/loss", "↓"),
        ("restoration_error/llm", "↓"),
        ("generator/fid", "↓"),
        ("attack/success", "↓"),  # the attacker's
        ("bytes_up", ""),
        ("update/turn", ""),
        ("global/image/samples", ""),
    ],
)
def test_the_arrow_points_to_better_values(name: str, sign: str) -> None:
    assert arrow(name).strip() == sign


def test_the_page_has_arrows_at_its_columns_and_says_what_they_mean(rows: Path) -> None:
    text = comparison(rows).html()
    assert '<th scope="col">image: exact match\u00a0%\u00a0↑</th>' in text
    assert '<th scope="col">bytes up</th>' in text
    assert "↑: higher is better; ↓: lower is better" in text
    assert "↑" not in comparison(rows, ["bytes_up"]).html()


def test_the_table_as_csv_has_plain_numbers_in_full(rows: Path) -> None:
    records = list(csv.DictReader(io.StringIO(comparison(rows).csv())))
    first = records[0]
    assert (first["row"], first["column"], first["seeds"]) == (
        "FedAvg-LoRA",
        "global/image/token_accuracy",
        "2",
    )
    assert float(first["mean"]) == pytest.approx(0.55)
    assert float(first["sd"]) == pytest.approx(0.0707106781)
    assert len(records) == 14  # two rows, seven columns


def test_a_loss_and_a_count_are_no_percent() -> None:
    assert (unit_of("global/image/loss"), unit_of("global/image/samples")) == ("number", "count")
    assert [words(f"global/image/{m}") for m in ("f1", "sentence_bleu")] == [
        "image: F1",
        "image: sentence BLEU",
    ]
