"""Natural clients of a pool without a split: sizes, parts, and what cannot be."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.pool_parts import natural_parts


def test_each_client_keeps_a_part_of_its_own_samples_within_the_most() -> None:
    names = ["b"] * 30 + ["a"] * 8 + ["c"]
    parts = natural_parts(names, range(39), 12, 4, 0)
    assert [*parts] == ["a", "b", "c"]
    assert {n: (len(train), len(test)) for n, (train, test) in parts.items()} == {
        "a": (6, 2), "b": (12, 4), "c": (1, 0),
    }  # fmt: skip
    for name, (train, test) in parts.items():
        assert not set(train) & set(test)
        assert {names[i] for i in (*train, *test)} == {name}
    assert parts == natural_parts(names, range(39), 12, 4, 0)
    assert parts["b"] != natural_parts(names, range(39), 12, 4, 1)["b"]


def test_samples_of_one_picture_stay_in_one_part() -> None:
    for seed in range(5):
        train, test = natural_parts(["a"] * 12, [i // 3 for i in range(12)], 9, 3, seed)["a"]
        assert test
        assert not {i // 3 for i in train} & {i // 3 for i in test}


def test_names_that_are_no_folders_are_numbered_and_missing_ones_refused() -> None:
    assert [*natural_parts(["a/b", "a_b"] * 4, range(8), 3, 1, 0)] == ["domain-1", "domain-2"]
    assert [*natural_parts([2, 10, 1] * 4, range(12), 3, 1, 0)] == ["1", "10", "2"]
    with pytest.raises(ExperimentError, match="the column of clients is empty for some samples"):
        natural_parts(["a", ""] * 4, range(8), 3, 1, 0)
