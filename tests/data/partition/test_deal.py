"""The deal of samples of any task: every kind of partition, as pure functions of rows, settings and a seed."""

from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.deal import deal, partition_of
from fedloom.data.partition.rows import Dealt, Rows
from fedloom.data.partition.settings import Column, Iid, Modality, RowPartition

COUNT = 120
TOPIC = [f"t{i % 4}" for i in range(COUNT)]


def rows(**changes: Any) -> Rows:
    """120 samples of four topics; every fourth is a test sample, and each has its own picture."""
    fields: dict[str, Any] = {
        "declared": ["test" if i % 4 == i // 4 % 4 else "train" for i in range(COUNT)],
        "group_of": range(COUNT),
        "holding": ["image"] * COUNT,
        "columns": {"topic": TOPIC, "id": list(range(COUNT))},
        "label": "topic",
    }
    return Rows(**(fields | changes))


def dealt(fields: dict[str, Any], clients: Any, of: Rows | None = None, seed: int = 0) -> Dealt:
    partition: Any = TypeAdapter(RowPartition).validate_python(fields)
    return deal(of or rows(), partition_of(partition, clients), clients, seed)


KINDS: list[tuple[dict[str, Any], Any]] = [
    ({"kind": "iid"}, 5),
    ({"kind": "dirichlet", "beta": 0.3}, 5),
    ({"kind": "quantity"}, 5),
    ({"kind": "quantity", "law": "power", "exponent": 2}, 5),
    ({"kind": "domain", "over": "topic"}, 8),
    ({"kind": "modality"}, 3),
]


@pytest.mark.parametrize(("fields", "clients"), KINDS, ids=str)
def test_every_sample_goes_to_one_client_and_the_seed_decides(fields: dict[str, Any], clients: int) -> None:
    parts = dealt(fields, clients).places
    assert len(parts) == clients
    assert sorted(i for own in parts.values() for i in own) == list(range(COUNT))
    assert parts == dealt(fields, clients).places
    assert parts != dealt(fields, clients, seed=1).places


@pytest.mark.parametrize(("fields", "clients"), [*KINDS, ({"kind": "few-shot", "shots": 3}, 2)], ids=str)
def test_samples_that_share_a_picture_go_to_one_client(fields: dict[str, Any], clients: int) -> None:
    shared = rows(group_of=[i // 3 for i in range(COUNT)])
    owner = {i: name for name, own in dealt(fields, clients, shared).places.items() for i in own}
    together = [{owner[i] for i in range(g, g + 3) if i in owner} for g in range(0, COUNT, 3)]
    assert max(map(len, together)) == 1


def test_a_small_dirichlet_parameter_separates_topics_and_a_large_one_does_not() -> None:
    def largest(beta: float) -> float:
        parts = dealt({"kind": "dirichlet", "beta": beta}, 4).places
        counts = [Counter(TOPIC[i] for i in own) for own in parts.values()]
        return sum(max(c.values()) / sum(c.values()) for c in counts) / 4

    assert largest(0.05) > 0.7
    assert largest(1000) < 0.4


def test_least_holds_for_dirichlet_and_quantity() -> None:
    declared = rows().declared
    for fields in (
        {"kind": "dirichlet", "beta": 0.1, "least": 9},
        {"kind": "quantity", "beta": 0.1, "least": 9},
    ):
        for own in dealt(fields, 4).places.values():
            assert sum(declared[i] == "train" for i in own) >= 9
            assert any(declared[i] == "test" for i in own)


def test_sizes_follow_the_power_law() -> None:
    own = rows(declared=[None] * COUNT)
    sizes = [len(p) for p in dealt({"kind": "quantity", "law": "power", "least": 1}, 3, own).places.values()]
    assert sizes == [65, 33, 22]  # 1 each, and 117 by 6/11, 3/11 and 2/11


def test_domains_have_clients_of_their_own_which_are_named_after_them() -> None:
    parts = dealt({"kind": "domain", "over": "topic"}, None).places
    assert {name: {TOPIC[i] for i in own} for name, own in parts.items()} == {t: {t} for t in set(TOPIC)}
    assert sorted(dealt({"kind": "domain", "over": "topic"}, 8).places)[:3] == ["t0-01", "t0-02", "t1-01"]
    odd = rows(columns={"topic": ["a/b" if i % 2 else "a_b" for i in range(COUNT)]})
    assert sorted(dealt({"kind": "domain", "over": "topic"}, None, odd).places) == ["domain-1", "domain-2"]
    with pytest.raises(ExperimentError, match="6 is no multiple of the 4 domains"):
        dealt({"kind": "domain", "over": "topic"}, 6)


def test_few_shots_of_disjoint_labels() -> None:
    found = dealt({"kind": "few-shot", "shots": 3}, 2)
    topics = [{TOPIC[i] for i in own} for own in found.places.values()]
    assert [len(t) for t in topics] == [2, 2]
    assert not topics[0] & topics[1]
    declared = rows().declared
    for own in found.places.values():
        assert Counter(TOPIC[i] for i in own if declared[i] == "train").most_common()[-1][1] == 3
        assert sum(declared[i] == "train" for i in own) == 6
    assert sum(p == "test" for p in found.parts.values()) == sum(d == "test" for d in declared)
    assert found.notes == ("78 samples are left out: data.partition.shots trains on 3 of each value",)


def test_few_shots_without_declared_test_samples_test_the_others() -> None:
    found = dealt({"kind": "few-shot", "shots": 29}, 4, rows(declared=[None] * COUNT))
    assert Counter(found.parts.values()) == {"train": 116, "test": 4}
    every = dealt({"kind": "few-shot", "shots": 30}, 4, rows(declared=[None] * COUNT))
    assert Counter(every.parts.values()) == {"train": 116, "test": 4}  # one of each is left to be tested


def test_clients_by_holding_in_all_or_counted() -> None:
    held = rows(holding=["image" if i % 3 else "text" for i in range(COUNT)])
    in_all = dealt({"kind": "modality"}, 5, held).places
    assert sorted(in_all) == ["image-01", "image-02", "image-03", "text-01", "text-02"]
    counted = dealt({"kind": "modality"}, {"image": 2}, held)
    assert sorted(counted.places) == ["image-01", "image-02"]
    assert counted.notes == ("40 rows that hold text are left out: data.clients names no clients for them",)
    with pytest.raises(ExperimentError, match="1 clients are too few for samples that hold image, text"):
        dealt({"kind": "modality"}, 1, held)


@pytest.mark.parametrize(
    ("fields", "clients", "sentence"),
    [
        ({"kind": "dirichlet", "over": "colour"}, 2, "no column 'colour'; known are id, topic"),
        ({"kind": "dirichlet", "over": "id"}, 2, "'id' has 120 different values in 120 samples"),
        ({"kind": "dirichlet", "least": 40}, 3, "no draw in 2000 gave each of 3 clients 40 of the 90"),
        (
            {"kind": "quantity", "least": 40},
            3,
            "90 unrelated training samples are too few for 3 clients with 40",
        ),
        (
            {"kind": "iid"},
            91,
            "90 training rows of different client files or texts are too few for 91 clients",
        ),
        ({"kind": "few-shot"}, 5, "data.partition: 4 base classes dealt to 5 clients leave client"),
        ({"kind": "column"}, None, "kind column needs samples that name their client"),
        ({"kind": "domain"}, None, "data.partition.over is missing"),
        ({"kind": "column"}, 3, "data.clients is not read with data.partition of kind column"),
        ({"kind": "iid"}, None, "kind iid needs a number of clients"),
        ({"kind": "iid"}, {"image": 2}, "which data.partition of kind iid does not read"),
    ],
)
def test_a_deal_that_is_not_possible_is_one_sentence(fields: Any, clients: Any, sentence: str) -> None:
    with pytest.raises(ExperimentError, match=sentence):
        dealt(fields, clients)


def test_no_label_is_one_sentence() -> None:
    with pytest.raises(ExperimentError, match="these samples have none; name a column"):
        dealt({"kind": "dirichlet"}, 2, rows(label=None))


def test_the_partition_that_is_meant_without_one() -> None:
    assert partition_of(None, None) == Column()
    assert partition_of(None, 3) == Iid()
    assert partition_of(None, {"image": 3}) == Modality()
