"""The published few-shot protocol: sizes and orders of pFedMMA's data sets, and what no partition may break."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.few_shot import base_and_novel, class_order, class_shares, draw_shots

# classes, base, q, last, novel, last of the novel ones, first five of the shuffled base classes
TABLE = {
    "OxfordPets": (37, 19, 2, 1, 18, 0, [2, 7, 3, 0, 16]),
    "DTD": (47, 24, 2, 6, 23, 5, [21, 9, 7, 6, 0]),
    "Caltech101": (100, 50, 5, 5, 50, 5, [23, 42, 45, 12, 5]),
    "Flowers102": (102, 51, 5, 6, 51, 6, [23, 43, 46, 12, 5]),
    "Food101": (101, 51, 5, 6, 50, 5, [23, 43, 46, 12, 5]),
    "UCF101": (101, 51, 5, 6, 50, 5, [23, 43, 46, 12, 5]),
    "SUN397": (397, 199, 20, 19, 198, 18, [164, 144, 76, 169, 154]),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_published_sizes_and_orders(name: str) -> None:
    count, base, q, last, novel, last_novel, first = TABLE[name]
    ours = base_and_novel(count)
    assert (len(ours[0]), len(ours[1])) == (base, novel)
    assert [*ours[0], *ours[1]] == list(range(count)), "the first half is base, in order"
    assert class_order(base)[:5] == first
    shares = class_shares(base, 10)
    assert [len(s) for s in shares] == [q] * 9 + [last]
    assert sorted(c for share in shares for c in share) == list(range(base)), "disjoint and exhaustive"
    assert shares[0][: min(q, 5)] == tuple(first[:q])
    if last_novel:
        assert len(class_shares(novel, 10)[-1]) == last_novel
    else:
        with pytest.raises(ExperimentError, match="leave client 10 without a class; set data"):
            class_shares(novel, 10)


@pytest.mark.parametrize(("count", "clients"), [(18, 10), (24, 10), (7, 7), (51, 10)])
def test_balanced_shares_differ_by_one_at_most(count: int, clients: int) -> None:
    shares = class_shares(count, clients, balanced=True)
    sizes = {len(s) for s in shares}
    assert max(sizes) - min(sizes) <= 1
    assert [c for share in shares for c in share] == class_order(count)


def test_too_many_clients_are_one_sentence() -> None:
    with pytest.raises(ExperimentError, match="3 base classes dealt to 4 clients leave client 1 without"):
        class_shares(3, 4, balanced=True)
    with pytest.raises(ExperimentError, match="client 4 without"):
        class_shares(3, 4)


def test_the_classes_order_has_its_own_seed() -> None:
    assert class_shares(20, 4) != class_shares(20, 4, shuffle_seed=1)


def test_shots_are_drawn_per_class_with_the_runs_seed() -> None:
    labels = [0, 1, 2] * 6 + [1, 1]
    drawn = draw_shots(labels, 4, seed=0)
    assert list(drawn) == [0, 1, 2]
    for label, places in drawn.items():
        assert len(set(places)) == 4
        assert {labels[p] for p in places} == {label}
    assert drawn == draw_shots(labels, 4, seed=0)
    assert drawn != draw_shots(labels, 4, seed=1)
    assert [len(p) for p in draw_shots(labels, 7, seed=0).values()] == [6, 7, 6], (
        "all, where a class has fewer"
    )
