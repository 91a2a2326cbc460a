"""Files read while they grow."""

import os
from pathlib import Path

from fedloom.core.seals import write_sealed
from fedloom.experiment.report.read import Metric
from fedloom.experiment.watch.growing import Document, Lines, of_kind, sealed

LINE = '{"round": %d, "name": "a", "value": 0.5}\n'


def rounds(lines: Lines[Metric]) -> list[int]:
    lines.read_on()
    return [metric.round for metric in lines.records]


def test_a_half_written_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path, Metric)
    assert rounds(lines) == []
    path.write_text(LINE % 0 + '{"round": 1, "na')
    assert rounds(lines) == [0]
    with path.open("a") as file:
        file.write('me": "a", "value": 0.5}\n')
    assert rounds(lines) == [0, 1]
    assert not lines.read_on()
    assert lines.bad == 0


def test_lines_of_another_form_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    wrong = ['{"round": "x", "name": "a", "value": 1}', "[1]", "\x00", '{"round": 1}', "[" * 5000, "9" * 5000]
    path.write_text(LINE % 0 + "\n".join(wrong) + "\n" + LINE % 1)
    lines = Lines(path, Metric)
    assert rounds(lines) == [0, 1]
    assert lines.bad == len(wrong)


def test_a_file_that_was_cut_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(LINE % 0 + LINE % 1)
    lines = Lines(path, Metric)
    assert rounds(lines) == [0, 1]
    os.truncate(path, len(LINE % 0))
    assert rounds(lines) == [0]
    (tmp_path / "other").write_text(LINE % 5 + LINE % 6 + LINE % 7)
    (tmp_path / "other").replace(path)
    assert rounds(lines) == [5, 6, 7]
    path.unlink()
    assert rounds(lines) == []


def test_a_document_of_another_form_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    one = Document(path, of_kind(dict[str, int]))
    assert not one.read_on()
    path.write_text('{"a": 1}')
    assert one.read_on()
    assert one.value == {"a": 1}
    path.write_text('{"a": "<b>"}')
    assert one.read_on()
    assert one.value is None


def test_a_sealed_file_without_fields_is_none(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    one = Document(path, sealed)
    write_sealed(path, {"runs": [1]})
    one.read_on()
    assert one.value == {"runs": [1]}
    write_sealed(path, [1])  # type: ignore[arg-type]
    one.read_on()
    assert one.value is None
    path.write_text(path.read_text().replace("1", "2"))
    assert one.read_on()
    assert one.value is None
