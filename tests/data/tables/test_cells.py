"""Cells as texts, splits and clients."""

import pytest

from fedloom.data.tables.cells import client_of, split_of, text_of


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, None), ("  ", None), (float("nan"), None), ([], None), ({"text": []}, None), ([None, ""], None),
        (0, "0"), (False, "false"), (3.0, "3"), (1e300, "1e+300"), (0.1, "0.1"), (" a ", " a "),
        (["a", "b", "b"], "b"), (["b", "a"], "b"), ({"text": ["x"], "answer_start": [3]}, "x"),
        ([{"answer_start": 1, "text": "y"}], "y"),
    ],
)  # fmt: skip
def test_text(cell: object, text: str | None) -> None:
    assert text_of(cell) == text


@pytest.mark.parametrize("cell", [float("inf"), {"x": 1}, b"a", "\ud800", ["\udfff"]])
def test_no_text(cell: object) -> None:
    with pytest.raises(ValueError, match=r"^(is|should be|holds) "):
        text_of(cell)


def test_splits() -> None:
    assert [split_of(v) for v in ("Train", "dev", " test ", None, "")] == [
        "train",
        "validation",
        "test",
        None,
        None,
    ]
    with pytest.raises(ValueError, match="should be train, validation or test, and is 'tset'"):
        split_of("tset")


def test_clients() -> None:
    assert [client_of(v) for v in (3, " a ", "é")] == ["3", "a", "é"]
    for value in (None, "", "..", "a/b", "\0", ["a"], "x" * 300):
        with pytest.raises(ValueError, match=r"client"):
            client_of(value)
