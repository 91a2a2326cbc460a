"""Runs that are kept, and what got slower since."""

import json
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks.child import child
from benchmarks.kept_run import Measured, read, slower, write
from benchmarks.report import Row


def run(ratio: float | None, *arguments: str, name: str = "cohort", row: str = "whole") -> Measured:
    return Measured(name, arguments, {row: ratio})


def test_a_kept_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = [Measured("cohort", ("20", "2"), {"a": 2.5, "b": None}), Measured("scale", (), {"c": 1.0})]
    write(tmp_path / "kept.json", kept)
    assert read(tmp_path / "kept.json", ("cohort", "scale")) == kept


def test_only_what_fell_by_more_than_the_tolerance_is_told() -> None:
    assert slower([run(2.0)], [run(1.71)]) == []
    assert slower([run(2.0)], [run(3.0)]) == []
    assert slower([run(2.0)], [run(1.6)]) == [
        "cohort: whole: slower, 2.00 in the kept run, 1.60 in this one (-20%)"
    ]


def test_what_one_run_lacks_is_told() -> None:
    assert slower([run(2.0)], [run(2.0, "20")]) == [
        "cohort: not in this run",
        "cohort 20: not in the kept run",
    ]
    assert slower([run(2.0)], [run(2.0, row="training")]) == [
        "cohort: whole: not in this run",
        "cohort: training: not in the kept run",
    ]
    assert slower([run(2.0)], [run(None)]) == [
        "cohort: whole: 2.00 in the kept run, not measured in this one"
    ]
    assert slower([run(None)], [run(None)]) == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"runs": 1}', '{"runs": [{"benchmark": "cohort", "arguments": [], "ratios": {"a": -1}}]}'],
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(ValueError, match="holds no kept run; a file that --out wrote is right"):
        read(tmp_path / "kept.json", ("cohort",))


def test_an_unknown_benchmark_and_a_missing_file_are_refused(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "kept.json", [run(1.0, name="former")])
    for file, said in (
        (tmp_path / "kept.json", "there is no benchmark former"),
        (tmp_path / "no", "No such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            command.main(["--against", str(file)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_run_is_kept_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seconds, asked = [1.0], []

    def measured(name: str, arguments: list[str]) -> tuple[Measured, list[Row]]:
        asked.append((name, arguments))
        rows = [Row(name, "work", "another", "2", seconds, [2.0])]
        return Measured.of(name, arguments, rows), rows

    monkeypatch.setattr(command, "measured", measured)
    file = tmp_path / "kept.json"
    assert command.main(["--out", str(file), "cohort", "20", "--out", "x"]) == 0
    assert json.loads(file.read_text())["runs"][0]["arguments"] == ["20", "--out", "x"]
    assert command.main(["--against", str(file)]) == 0
    assert "nothing got slower by more than 15%" in capsys.readouterr().out
    seconds[0] = 4.0
    assert command.main(["--against", str(file)]) == 1
    assert "slower, 2.00 in the kept run, 0.50 in this one (-75%)" in capsys.readouterr().out
    assert asked == [("cohort", ["20", "--out", "x"])] * 3


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(
        SystemExit, match=r"invalid literal(.|\n)*benchmarks uploads --child many ended with exit code 1"
    ):
        child("uploads", "many")
