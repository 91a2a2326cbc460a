"""Intervals over test samples, and paired differences between rows."""

import csv
import io
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import rich.console
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.experiment.report import comparison
from fedloom.experiment.report.columns import Column
from fedloom.experiment.report.differences import (
    Difference,
    best_row,
    compared,
    difference_of,
    interval_text,
)
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.paired import paired
from fedloom.experiment.report.read import read_run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.tasks.metrics.bootstrap import Interval
from fedloom.tasks.metrics.metric import metric_of
from fedloom.tasks.metrics.text import bleu
from tests.experiment.report.report_folders import change, make_rows, make_run, write_lines

KEY = "global/image/exact_match"
MATCH = Column(KEY, "exact match", "percent")


def answers(hits: Sequence[bool], client: str = "c0", kind: str = "image") -> list[dict]:
    """One predicted sample per hit or miss, of two answer tokens, one of them always right."""
    return [
        {"client": client, "kind": kind, "uid": str(i), "reference": "red", "tokens": 2}
        | {"prediction": "red" if hit else "blue", "correct": 1 + hit}
        for i, hit in enumerate(hits)
    ]


def keep(folder: Path, records: list[dict], **metrics: float) -> None:
    """Write a run's predictions, and figures of the last round over those of `make_run`."""
    write_lines(folder / "predictions-end.jsonl", records)
    known = json.loads((folder / "summary.json").read_text())["metrics"]
    change(folder / "summary.json", metrics=known | metrics)


def study(folder: Path, rows: dict[str, Sequence[Sequence[bool]]]) -> Path:
    """Rows of seeds of hits."""
    runs = {(row, seed): {} for row, seeds in rows.items() for seed in range(len(seeds))}
    make_rows(folder, runs)
    for entry in json.loads((folder / "rows.json").read_text()):
        hits = rows[entry["row"]][entry["seed"]]
        keep(folder / entry["path"], answers(hits), **{KEY: sum(hits) / len(hits)})
    return folder


GOOD = [True] * 36 + [False] * 4
BAD = [True] * 12 + [False] * 28
NEAR = [True] * 35 + [False] * 4 + [True]


def test_a_row_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"a": [GOOD, BAD, NEAR], "b": [GOOD, BAD, NEAR]})).rows
    for other in ("a", "b"):
        found = compared(rows["a"], rows[other], MATCH, SampleValues())
        assert found is not None
        assert found.interval is not None
        assert (found.mean, found.interval.low, found.interval.high) == (0, 0, 0)
        assert (found.interval.p, found.p_seeds, found.verdict) == (1, 1, "within")


def test_a_clear_gap_is_ahead_and_the_other_way_round_behind(tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"good": [GOOD] * 3, "bad": [BAD] * 3, "near": [NEAR] * 3})).rows
    ahead = compared(rows["good"], rows["bad"], MATCH, SampleValues())
    behind = compared(rows["bad"], rows["good"], MATCH, SampleValues())
    assert ahead is not None
    assert behind is not None
    assert ahead.mean == pytest.approx(0.6)  # 36 of 40 against 12 of 40
    assert (ahead.verdict, behind.verdict) == ("ahead", "behind")
    assert ahead.p_seeds == 0.25  # the least that three seeds can give: 2 of 8 patterns
    near = compared(rows["good"], rows["near"], MATCH, SampleValues())
    assert near is not None
    assert near.verdict == "within"


def test_fewer_than_three_seeds_have_no_test_over_seeds(tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"a": [GOOD, GOOD], "b": [BAD, BAD]})).rows
    found = compared(rows["a"], rows["b"], MATCH, SampleValues())
    assert found is not None
    assert (found.seeds, found.p_seeds, found.verdict) == (2, None, "ahead")


@pytest.mark.parametrize(("samples", "verdict"), [(1, None), (5, None), (6, "ahead")])
def test_a_handful_of_samples_gives_no_verdict(samples: int, verdict: str | None, tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"a": [[True] * samples], "b": [[False] * samples]})).rows
    found = compared(rows["a"], rows["b"], MATCH, SampleValues())
    assert found is not None
    assert (found.mean, found.verdict) == (1, verdict)


def test_only_common_seeds_count(tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"a": [GOOD, BAD], "b": [GOOD]})).rows
    found = compared(rows["a"], rows["b"], MATCH, SampleValues())
    assert found is not None
    assert (found.seeds, found.mean, found.verdict) == (1, 0, "within")


def test_the_order_of_samples_changes_nothing(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD], "b": [BAD]})
    rows = read(folder).rows
    before = compared(rows["a"], rows["b"], MATCH, SampleValues())
    file = folder / "a/seed-0/predictions-end.jsonl"
    lines = file.read_text().splitlines()
    random.Random(1).shuffle(lines)
    file.write_text("\n".join(lines) + "\n")
    assert compared(rows["a"], rows["b"], MATCH, SampleValues()) == before


def test_a_lower_loss_is_ahead(tmp_path: Path) -> None:
    folder = make_rows(tmp_path / "s", {("low", 0): {}, ("high", 0): {}})
    for row, loss in (("low", 0.5), ("high", 1.5)):
        records = [r | {"loss": loss + i / 100} for i, r in enumerate(answers(GOOD))]
        mean = sum(r["loss"] for r in records) / len(records)
        keep(folder / row / "seed-0", records, **{"global/image/loss": mean})
    read_rows, column = read(folder), Column("global/image/loss", "loss", "number")
    found = compared(read_rows.rows["low"], read_rows.rows["high"], column, SampleValues())
    assert found is not None
    assert found.mean == pytest.approx(-1)
    assert found.verdict == "ahead"
    assert best_row(read_rows, column, SampleValues()) == "low"


def test_samples_that_do_not_give_the_figure_are_not_its_samples(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD], "b": [BAD]})
    change(folder / "a/seed-0/summary.json", metrics={KEY: 0.91})
    rows = read(folder).rows
    found = compared(rows["a"], rows["b"], MATCH, SampleValues())
    assert found is not None
    assert (found.interval, found.verdict) == (None, None)
    assert found.mean == pytest.approx(0.91 - 0.3)


def test_other_samples_are_not_paired(tmp_path: Path) -> None:
    rows = read(study(tmp_path / "s", {"a": [GOOD], "b": [[True, False]]})).rows
    found = compared(rows["a"], rows["b"], MATCH, SampleValues())
    assert found is not None
    assert found.interval is None


def test_the_mean_of_the_values_is_the_figure_of_every_kind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q")
    records = [*answers(GOOD), *answers([True, False], "c1")]
    records[0]["tokens"] = 7  # token accuracy is one over tokens, not a mean over samples
    tokens = sum(r["tokens"] for r in records)
    accuracy = sum(r["correct"] for r in records) / tokens
    own = {"c0": 0.9, "c1": 0.5}
    clients = [{"client": c, "metrics": {"image/exact_match": v}} for c, v in own.items()]
    change(run / "summary.json", clients=clients)
    keep(run, records, **{KEY: 37 / 42, "global/image/token_accuracy": accuracy})
    wanted = {
        KEY: 37 / 42,
        "global/image/token_accuracy": accuracy,
        "clients/image/exact_match": 0.7,  # of 0.9 and 0.5, whatever the number of samples
    }
    for key, figure in wanted.items():
        values = SampleValues().of_run(read_run(run), key)
        assert values is not None
        assert sum(values.values()) / len(values) == pytest.approx(figure)
        assert len(values) == 42


def test_clients_own_figures_need_the_answers_of_their_own_models(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q")
    keep(run, [*answers(GOOD), *answers([True, False], "c1")])
    # the mean is that of the samples, but the clients' figures are another model's
    clients = [{"client": c, "metrics": {"image/exact_match": 0.7}} for c in ("c0", "c1")]
    change(run / "summary.json", clients=clients)
    assert SampleValues().of_run(read_run(run), "clients/image/exact_match") is None


def test_intervals_stand_in_the_table_and_the_best_is_marked_only_where_it_is_ahead(tmp_path: Path) -> None:
    clear = comparison(study(tmp_path / "s", {"a": [GOOD] * 2, "b": [BAD] * 2}), [KEY], intervals=True)
    line = next(line for line in clear.markdown().splitlines() if line.startswith("| a "))
    assert line.startswith("| a | 90.0 ± 0.0 * [")
    assert "ahead of every other row" in clear.markdown()
    close = comparison(study(tmp_path / "t", {"a": [GOOD] * 2, "c": [NEAR] * 2}), [KEY], intervals=True)
    assert "*" not in close.markdown()
    assert "[" not in comparison(tmp_path / "s", [KEY]).markdown()


def test_a_table_with_intervals_fits_eighty_columns(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"FedA²-LoRA II-stage": [GOOD] * 3, "FFA-LoRA": [BAD] * 3})
    keys = [KEY, *(f"global/{k}/{m}" for k in ("image", "audio") for m in ("token_accuracy", "exact_match"))]
    console = rich.console.Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison(folder, [*keys, *keys[1:], "bytes_up", "seconds"], intervals=True).rich())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "FedA²-LoRA II-stage" in text
    assert "90.0±0.0*" in text


def test_every_seeds_difference_stands_beside_the_mean(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [BAD, BAD, GOOD], "b": [GOOD, BAD, BAD]})
    found = compared(read(folder).rows["b"], read(folder).rows["a"], MATCH, SampleValues())
    assert found is not None
    assert found.by_seed == pytest.approx({0: 0.6, 1: 0.0, 2: -0.6})
    pairs, notes = paired(read(folder))
    match = next(
        pair for pair in pairs if "exact match" in pair.grid.caption and "image" in pair.grid.caption
    )
    assert list(match.grid.header)[:5] == ["row", "difference\u00a0↑", "seed 0", "seed 1", "seed 2"]
    assert list(match.grid.lines[0])[:5] == ["b", "0.0", "+60.0", "0.0", "-60.0"]
    assert match.grid.lines[0][-1] == "within"
    assert any("seeds p" in note for note in notes)
    saved = list(csv.DictReader(io.StringIO(match.plot.csv)))
    assert [float(saved[0][f"seed {s}"]) for s in range(3)] == pytest.approx([0.6, 0.0, -0.6])


def test_a_seed_that_one_row_lacks_has_no_difference(tmp_path: Path) -> None:
    pairs, _ = paired(read(study(tmp_path / "s", {"a": [BAD, BAD], "b": [GOOD, BAD], "c": [GOOD]})))
    match = next(
        pair for pair in pairs if "exact match" in pair.grid.caption and "image" in pair.grid.caption
    )
    assert [list(line)[:4] for line in match.grid.lines] == [
        ["b", "+30.0", "+60.0", "0.0"],
        ["c", "+60.0", "+60.0", "—"],
    ]
    assert paired(read(make_run(tmp_path / "one"))) == ([], [])


def test_the_page_marks_the_best_value_only_where_the_interval_leaves_out_zero(tmp_path: Path) -> None:
    clear = comparison(study(tmp_path / "s", {"a": [GOOD] * 2, "b": [BAD] * 2}), [KEY], intervals=True)
    assert re.findall(r"<td class=best>([\d.]+)", clear.html()) == ["90.0"]
    close = comparison(study(tmp_path / "t", {"a": [GOOD] * 2, "c": [NEAR] * 2}), [KEY], intervals=True)
    assert "class=best" not in close.html()


def test_compare_against_a_row_prints_difference_interval_and_verdict(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"LoRA": [BAD] * 3, "FedA²-LoRA": [GOOD] * 3})
    result = CliRunner().invoke(app, ["compare", str(folder), "--against", "LoRA", "--column", KEY])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    line = next(line for line in result.output.splitlines() if line.startswith("FedA²-LoRA ") and "+" in line)
    assert "+60.0" in line
    assert "<0.001" in line
    assert "0.25" in line
    assert line.rstrip().endswith("ahead")


@pytest.mark.parametrize(
    ("last", "verdict"), [((NEAR, BAD), "ahead (seeds disagree)"), ((BAD, GOOD), "ahead")]
)
def test_a_verdict_says_where_the_seeds_disagree_in_sign(
    tmp_path: Path, last: tuple[list[bool], list[bool]], verdict: str
) -> None:
    folder = study(tmp_path / "s", {"first": [BAD, BAD, last[0]], "second": [GOOD, GOOD, last[1]]})
    result = CliRunner().invoke(app, ["compare", str(folder), "--against", "first", "--markdown"])
    assert f"| {verdict} |" in result.output
    verdicts = {pair.grid.caption: pair.grid.lines[0][-1] for pair in paired(read(folder))[0]}
    assert [v for caption, v in verdicts.items() if "image: exact match" in caption] == [verdict]


def test_a_gap_of_rounding_is_no_seed_that_disagrees() -> None:
    metric = metric_of(KEY)
    ahead = Interval(0.03, 0.01, 0.05)
    found = difference_of({0: 0.3 - (0.1 + 0.2), 1: 0.04, 2: 0.05}, ahead, metric)
    assert (found.in_words, found.by_seed[0]) == ("ahead", 0)
    assert difference_of({0: -1e-9, 1: 0.04, 2: 0.05}, ahead, metric).in_words == "ahead (seeds disagree)"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.0004, 0.012, "[+0.04, +1.20]"),
        (-0.012, -0.00004, "[-1.200, -0.004]"),
        (-0.0004, 0.012, "[0.0, +1.2]"),  # within: it holds zero, whatever the digits
        (0.004, 0.012, "[+0.4, +1.2]"),
    ],
)
def test_an_end_that_is_not_zero_is_not_shown_as_zero_beside_a_verdict(
    low: float, high: float, text: str
) -> None:
    found = Difference(0.005, 3, Interval(0.005, low, high, None), None)
    assert interval_text(found, "percent") == text


def test_a_row_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD], "b": [BAD]})
    result = CliRunner().invoke(app, ["compare", str(folder), "--against", "c"])
    assert str(result.exception) == "--against: there is no row 'c'; there are a, b"


def test_corpus_bleu_has_an_interval_from_the_answers(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD], "b": [GOOD]})
    texts = [
        (f"the red cube is {w} the green ball", f"the {w} cube is on the green ball") for w in "abcdefgh"
    ]
    for row, changed in (("a", 0), ("b", 5)):
        records = [
            {
                "client": "c0",
                "kind": "image",
                "uid": str(i),
                "reference": r,
                "prediction": r if i >= changed else p,
            }
            for i, (p, r) in enumerate(texts)
        ]
        figure = bleu([str(r["prediction"]) for r in records], [str(r["reference"]) for r in records]).score
        keep(folder / f"{row}/seed-0", records, **{"global/image/bleu": figure})
    column = Column("global/image/bleu", "BLEU", "percent")
    rows, samples = read(folder).rows, SampleValues()
    perfect, worse = (samples.of_runs(rows[row], column) for row in "ab")
    assert perfect is not None
    assert worse is not None
    assert set(perfect.values()) == {1.0}
    assert len(worse) == 8
    found = compared(rows["a"], rows["b"], column, samples)
    assert found is not None
    assert found.verdict == "ahead"
    keep(folder / "b/seed-0", records, **{"global/image/bleu": figure + 0.01})
    assert SampleValues().of_runs(read(folder).rows["b"], column) is None, "another model's answers"


def test_bertscores_interval_rests_on_the_kept_scores(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD]})
    name = "bertscore_f[org/embedder:6]"
    records = [r | {"scores": {name: 0.5 + 0.01 * i}} for i, r in enumerate(answers(GOOD))]
    del records[3]["scores"]
    mean = sum(r["scores"][name] for r in records if "scores" in r) / 39
    keep(folder / "a/seed-0", records, **{f"global/image/{name}": mean})
    values = SampleValues().of_runs(read(folder).rows["a"], Column(f"global/image/{name}", "F", "percent"))
    assert values is not None
    assert sorted(values.values()) == pytest.approx(sorted(0.5 + 0.01 * i for i in range(40) if i != 3))


def test_base_novel_and_their_harmonic_means_have_intervals_over_pictures(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [GOOD]})
    run = folder / "a/seed-0"
    local = [
        {
            "client": "c0",
            "kind": "image",
            "uid": f"p{i}",
            "reference": "x",
            "tokens": 1,
            "correct": int(i < 6),
            "labelled": True,
        }
        for i in range(8)
    ]
    base = {f"p{i}": (1.0 if i < 4 else 0.5) for i in range(8)}
    novel = {f"n{i}": float(i < 1) for i in range(4)}
    lines = [
        {"set": s, "uid": u, "right": v}
        for s, of in (("base", base), ("novel", novel))
        for u, v in of.items()
    ]
    write_lines(run / "predictions-common-end.jsonl", lines)
    home, novels = 0.75, 0.25
    hm = 3 / (1 / home + 1 / home + 1 / novels)
    figures = {
        "local/image/accuracy": home,
        "base/image/accuracy": home,
        "novel/image/accuracy": novels,
        "hm": hm,
    }
    keep(run, local, **figures)
    client = {"client": "c0", "metrics": {"image/accuracy": home}}
    change(run / "summary.json", clients=[client])
    rows, samples = read(folder).rows["a"], SampleValues()
    found = {key: samples.of_runs(rows, Column(key, key, "percent")) for key in figures}
    assert {key: len(values or {}) for key, values in found.items()} == dict(
        zip(figures, (8, 8, 4, 12), strict=True)
    )
    values = found["hm"] or {}
    assert sum(values.values()) / 12 == pytest.approx(hm)
    slope = {m: hm**2 / (3 * m**2) for m in (home, novels)}
    assert values[None, "", "p0"] - hm == pytest.approx(12 * slope[home] * (0.25 / 8 + 0.25 / 8))
    assert values[None, "", "n3"] - hm == pytest.approx(12 * slope[novels] * (-0.25 / 4))
