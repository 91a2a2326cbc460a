"""The report of image classification: the paper's columns, means over data sets, trade-offs, the line in the terminal."""

import json
from pathlib import Path

import pytest
import yaml

from fedloom.cli.progress import describe
from fedloom.experiment.report import comparison, write_report
from fedloom.experiment.report.columns import AVERAGE
from fedloom.federation.progress import Progress, Totals
from tests.experiment.report.report_folders import change, make_run, write_lines

HM = {"local/image/accuracy": 0.9, "base/image/accuracy": 0.6, "novel/image/accuracy": 0.5, "hm": 0.625}
SKEW = {"local/image/accuracy": 0.7, "local/image/accuracy_own_classes": 0.8}


def make_study(
    folder: Path,
    rows: dict[str, dict[str, float]],
    across: tuple[str | None, ...] = (None,),
    **experiment: object,
) -> Path:
    """One seed of every row; of each further part all figures are 0.1 lower."""
    entries = []
    for row, figures in rows.items():
        for i, part in enumerate(across):
            path = f"{row}/{part}"
            run = make_run(folder / path, row=row, rounds=1, up=1000 * (1 + i))
            told = {"name": "main", "row": row, "across": part, **experiment}
            (run / "experiment.yaml").write_text(yaml.safe_dump(told))
            end = {name: value - 0.1 * i for name, value in figures.items()}
            lines = [{"round": r, "name": n, "value": v * r} for n, v in end.items() for r in (0, 1)]
            write_lines(run / "metrics.jsonl", lines)
            change(run / "summary.json", name="main", metrics={**end, "start": dict.fromkeys(end, 0.0)})
            entries.append({"row": row, "across": part, "seed": 0, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


def test_the_headline_is_local_base_novel_and_their_harmonic_mean(tmp_path: Path) -> None:
    text = comparison(make_study(tmp_path, {"pFedMMA": HM, "CLIP": HM})).markdown()
    assert text.startswith("|  | local % | base % | novel % | HM % | bytes up | bytes down | time |")
    assert "| pFedMMA | 90.0 | 60.0 | 50.0 | 62.5 |" in text


def test_label_skew_and_domains_have_their_own_headlines(tmp_path: Path) -> None:
    table = comparison(make_study(tmp_path / "skew", {"a": SKEW}), ["local/image/accuracy_own_classes"])
    assert table.columns[0].unit == "percent"
    assert "| a | 80.0 |" in table.markdown()
    figures = {"local/image/accuracy": 0.5, "domain/fog/accuracy": 0.4, "domain/fog/accuracy_sd": 0.1}
    text = comparison(make_study(tmp_path / "domains", {"a": figures})).markdown()
    assert text.startswith("|  | local % | fog % | bytes up |")


def test_averages_alone_can_be_asked_for(tmp_path: Path) -> None:
    """The mean of the data sets' harmonic means, and not the harmonic mean of the means."""
    columns = [f"average/{key}" for key in HM]
    folder = make_study(tmp_path / "m", {"pFedMMA": HM}, ("Pets", "DTD"), columns=columns)
    table = comparison(folder)
    assert [c.title for c in table.columns] == ["local", "base", "novel", "HM"]
    assert {c.across for c in table.columns} == {AVERAGE}
    assert "| pFedMMA | 85.0 | 55.0 | 45.0 | 57.5 |" in table.markdown()
    assert "means over Pets, DTD" in table.markdown()
    assert [c.title for c in comparison(folder, ["hm"]).columns] == ["Pets", "DTD", "average"]
    assert [c.title for c in comparison(folder, ["hm", "average/hm"]).columns] == [
        "Pets, HM",
        "DTD, HM",
        "HM",
    ]
    single = comparison(make_study(tmp_path / "one", {"a": HM}, columns=columns))
    assert "| a | 90.0 | 60.0 | 50.0 | 62.5 |" in single.markdown(), "without parts the figure itself"


def test_without_columns_a_study_across_data_sets_shows_hm(tmp_path: Path) -> None:
    table = comparison(make_study(tmp_path, {"a": HM}, ("Pets", "DTD")))
    assert [(c.key, c.title) for c in table.columns] == [("hm", "Pets"), ("hm", "DTD"), ("hm", "average")]


@pytest.mark.parametrize("across", [(None,), ("Pets", "DTD")])
def test_the_page_draws_the_trade_offs(tmp_path: Path, across: tuple[str | None, ...]) -> None:
    other = {**HM, "novel/image/accuracy": 0.3, "local/image/accuracy": 0.95}
    text = write_report(make_study(tmp_path, {"pFedMMA": HM, "FedOTP": other}, across)).read_text(
        encoding="utf-8"
    )
    assert "<figcaption>local against novel accuracy</figcaption>" in text
    assert "<figcaption>HM against bytes</figcaption>" in text
    low = 0.05 if across[0] else 0.0
    assert f"FedOTP: novel {30 - 100 * low:.1f} %, local {95 - 100 * low:.1f} %" in text
    assert (
        "<figcaption>DTD, HM</figcaption>" in text if across[0] else "<figcaption>local</figcaption>" in text
    )


def test_one_row_alone_has_no_trade_off(tmp_path: Path) -> None:
    assert 'id="tradeoffs"' not in write_report(make_study(tmp_path, {"a": HM})).read_text(encoding="utf-8")


def test_label_skew_draws_accuracy_against_bytes(tmp_path: Path) -> None:
    text = write_report(make_study(tmp_path, {"a": SKEW, "b": SKEW})).read_text(encoding="utf-8")
    assert "<figcaption>local against bytes</figcaption>" in text
    assert "local against novel" not in text


def test_the_terminal_tells_accuracy_of_every_kind_of_run() -> None:
    def told(metrics: dict[str, float]) -> str:
        return describe(Progress(2, 4, metrics, Totals()))

    assert "local 90.0%  base 60.0%  novel 50.0%  HM 62.5%" in told(HM)
    assert "text 81.0%" in told({"global/text/accuracy": 0.81})
    assert "image 71.0%" in told({"global/image/token_accuracy": 0.71})
