"""Logs and sealed files: what was sealed is what is read, whatever was appended, cut or flipped since."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import DiskError
from fedloom.core.seals import EMPTY, Log, read_sealed, seal_of, write_sealed

ROWS = st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)), max_size=4)


@given(sealed=ROWS, later=ROWS, tail=st.binary(max_size=5))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_a_log_returns_to_its_seal_whatever_follows(tmp_path_factory, sealed, later, tail) -> None:
    path = tmp_path_factory.mktemp("log") / "x.jsonl"
    log = Log(path)
    log.append(sealed)
    seal = log.seal()
    assert seal == seal_of(path)
    log.append(later)
    with path.open("ab") as file:
        file.write(tail)  # a kill tears the last line
    again = Log(path)
    again.cut(seal)
    assert again.lines() == sealed
    again.append(later)
    assert again.seal() == seal_of(path)
    assert again.lines() == [*sealed, *later]


@given(place=st.integers(0, 999), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_any_damage_before_the_seal_is_noticed(tmp_path_factory, place, bit, cut) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = Log(folder / "x.jsonl")
    log.append([{"round": n, "text": "é\u2028"} for n in range(3)])
    seal = log.seal()
    write_sealed(folder / "y.json", {"a": "é", "b": [1.5, None]})
    for file in (folder / "x.jsonl", folder / "y.json"):
        data = bytearray(file.read_bytes())
        at = place * len(data) // 1000
        data[at] ^= 1 << bit
        file.write_bytes(data[:at] if cut else data)
    with pytest.raises(DiskError, match=r"x\.jsonl is damaged"):
        Log(folder / "x.jsonl").cut(seal)
    with pytest.raises(DiskError, match=r"y\.json is damaged"):
        read_sealed(folder / "y.json")


def test_a_missing_log_is_damaged_unless_nothing_was_sealed(tmp_path: Path) -> None:
    Log(tmp_path / "x").cut(EMPTY)
    (tmp_path / "x").write_text("{}\n")
    seal = Log(tmp_path / "x").seal()
    (tmp_path / "x").unlink()
    with pytest.raises(DiskError, match="x is damaged"):
        Log(tmp_path / "x").cut(seal)


def test_appending_reads_nothing_back(tmp_path: Path, monkeypatch) -> None:
    log = Log(tmp_path / "x.jsonl")
    modes: list[str] = []
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *a, **k: (modes.append(mode), original(self, mode, *a, **k))[1]
    )
    for n in range(5):
        log.append([{"round": n}])
        log.seal()
    assert modes == ["ab"] * 5


def test_a_line_may_hold_any_line_break_of_unicode(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\u0085c\x1cd\re"}
    log = Log(tmp_path / "x.jsonl")
    log.append([row])
    assert log.lines() == [row]
    (tmp_path / "y.jsonl").write_text(
        json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8", newline=""
    )
    assert Log(tmp_path / "y.jsonl").lines() == [row]
