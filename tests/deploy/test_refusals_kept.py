"""A site's refusals are said once, whoever writes meanwhile, and fill no disk."""

import multiprocessing
from pathlib import Path

from fedloom.deploy import refusals


def _write(folder: Path, name: str) -> None:
    for number in range(300):
        refusals.note(folder, f"{name} {number}")


def test_no_line_is_lost_that_is_written_while_others_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(refusals, "MOST", 10**6)
    writers = [
        multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path, n)) for n in ("a", "b")
    ]
    for writer in writers:
        writer.start()
    said: list[str] = []
    while any(writer.is_alive() for writer in writers):
        said += refusals.taken(tmp_path)
    said += refusals.taken(tmp_path)
    assert sorted(said) == sorted(f"{n} {i}" for n in ("a", "b") for i in range(300))
    assert refusals.taken(tmp_path) == []


def test_a_server_that_repeats_itself_fills_neither_disk_nor_terminal(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(refusals, "LARGEST", 2000)
    _write(tmp_path, "refused")
    assert (tmp_path / refusals.FILE).stat().st_size < 2400
    lines = refusals.taken(tmp_path)
    assert len(lines) == refusals.MOST + 1
    assert lines[-1].endswith(" further refusals")


def test_a_disk_that_takes_no_line_changes_no_answer(tmp_path) -> None:
    refusals.note(tmp_path / "missing", "refused")
    assert refusals.taken(tmp_path / "missing") == []
