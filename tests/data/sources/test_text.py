"""Labelled text of the Tabletop world: label mixes, isolation, determinism, and that labels are true."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.label_mix import deal, label_mix, quotas
from fedloom.data.sources import text
from fedloom.data.tabletop import Tabletop, tasks
from fedloom.data.tabletop.language import VOCABULARY, words
from fedloom.experiment.settings import Experiment
from tests.data.sources.label_counts import label_counts

THIRDS = (1 / 3,) * 3


def shares(samples) -> dict[str, float]:
    return {label: n / len(samples) for label, n in label_counts(samples).items()}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_train_and_test_follow_the_one_drawn_mix(task: str) -> None:
    labels = text.LABELS[task]
    for number, client in enumerate(text.text_clients(task, 3, 60, 30, 0.5, seed=4)):
        mix = label_mix(4, number, task, (1 / len(labels),) * len(labels), 0.5)
        assert len(client.train) == 60
        assert len(client.test) == 30
        for part in (client.train, client.test):
            assert list(shares(part)) == list(labels)
            for share, drawn in zip(shares(part).values(), mix, strict=True):
                assert abs(share - drawn) < 1 / len(part)


def test_clients_differ_in_their_mix_and_without_dirichlet_they_do_not() -> None:
    mixes = {label_mix(0, number, "entailment", THIRDS, 0.5) for number in range(3)}
    assert len(mixes) == 3
    for client in text.text_clients("entailment", 2, 30, 9, None, seed=0):
        assert set(label_counts(client.train).values()) == {10}
        assert set(label_counts(client.test).values()) == {3}


def test_a_mix_depends_on_seed_client_and_task_alone() -> None:
    first = label_mix(0, 1, "entailment", THIRDS, 0.5)
    assert first == label_mix(0, 1, "entailment", (0.2, 0.3, 0.5), 0.5)
    assert sum(first) == pytest.approx(1)
    others = [(1, 1, "entailment"), (0, 0, "entailment"), (0, 1, "mnli")]
    assert all(first != label_mix(*other, THIRDS, 0.5) for other in others)


def test_a_client_is_the_same_whoever_else_takes_part() -> None:
    single = text.text_clients("follows", 1, 20, 10, 0.5, seed=2)
    many = text.text_clients("follows", 4, 20, 10, 0.5, seed=2)
    assert many[0] == single[0]
    assert [c.name for c in many] == ["text-01", "text-02", "text-03", "text-04"]
    assert many != text.text_clients("follows", 4, 20, 10, 0.5, seed=3)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_no_scene_stands_twice_and_no_test_words_are_trained_on(task: str) -> None:
    clients = text.text_clients(task, 3, 100, 40, 0.5, seed=1)
    everything = [s for c in clients for part in (c.train, c.test) for s in part]
    assert len({s.uid for s in everything}) == len(everything)
    assert all("/private/" in s.uid for s in everything)
    trained = {(s.question, s.meta["pair"]) for c in clients for s in c.train}
    assert not trained & {(s.question, s.meta["pair"]) for c in clients for s in c.test}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_samples_say_all_that_a_classifier_needs_in_known_words(task: str) -> None:
    (client,) = text.text_clients(task, 1, 30, 10, None, seed=0)
    for sample in client.train:
        assert sample.kind == "text"
        assert sample.meta["labels"] == list(text.LABELS[task])
        assert sample.meta["task"] == task
        assert sample.answer in sample.meta["labels"]
        assert (sample.meta["pair"] is None) == (task == "warm")
        assert {*words(sample.question), *words(sample.meta["pair"] or "")} <= set(VOCABULARY)
    assert client.holds == ()


def test_same_and_different_tables() -> None:
    world = Tabletop(0)
    changes = Counter()
    for index in range(60):
        same = tasks.text_sample(world, "private", index, "same", "same")
        other = tasks.text_sample(world, "private", index, "same", "different")
        halves = [sorted(part.split(" and ")) for part in (same.question, same.meta["pair"])]
        assert halves[0] == halves[1]
        assert same.question != same.meta["pair"]
        assert other.question == same.question
        told = zip(same.meta["pair"].split(), other.meta["pair"].split(), strict=True)
        (changed,) = [i for i, (a, b) in enumerate(told) if a != b]
        changes[changed] += 1
    assert len(changes) == 6  # size, colour and texture of either thing


def test_follows_joins_what_entailment_tells_apart_and_warm_is_warm() -> None:
    world = Tabletop(0)
    for index in range(40):
        scene = world.scene("private", index)
        warm = tasks.text_sample(world, "private", index, "warm", "warm")
        cold = tasks.text_sample(world, "private", index, "warm", "cold")
        count = sum(t.colour in tasks.WARM for t in scene.things)
        assert (warm is not None, cold is not None) == (count == 2, count == 0)
        yes = tasks.text_sample(world, "private", index, "follows", "entailment")
        _, shape, _, value = yes.meta["pair"].split()
        (thing,) = [t for t in scene.things if t.shape == shape]
        assert value in (thing.colour, thing.texture, thing.size)
        assert value in yes.question


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_quotas_round_to_the_total(raw: list[float], total: int) -> None:
    mix = [value / sum(raw) for value in raw]
    found = quotas(mix, total)
    assert sum(found) == total
    assert all(abs(n - share * total) <= 1 for n, share in zip(found, mix, strict=True))


def test_deal_gives_no_row_twice_and_says_what_lacks() -> None:
    pool = {0: [5, 1, 3], 1: [0, 2]}
    assert deal(pool, [[1, 1], [2, 1]], ("no", "yes"), "data.train") == [[0, 5], [1, 2, 3]]
    with pytest.raises(
        ExperimentError, match=r"data\.test: .* ask for 4 examples of 'yes' and the task has 2"
    ):
        deal(pool, [[1, 2], [2, 2]], ("no", "yes"), "data.test")


def test_data_settings_make_text_clients() -> None:
    data = text.TextSource(task="warm", clients={"text": 2}, train=8, test=4)
    assert [(c.name, len(c.train), len(c.test)) for c in data.load(0)] == [
        ("text-01", 8, 4),
        ("text-02", 8, 4),
    ]
    assert data.labels == ("warm", "cold")
    assert (data.pairs, text.TextSource().pairs) == (False, True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"clients": {"image": 2, "text": 1}},
            "has no clients that hold image; set data.clients to {text: N}",
        ),
        ({"task": "cola", "clients": {"text": 1}}, "data.task"),
        ({"dirichlet": 0, "clients": {"text": 1}}, "data.dirichlet"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict, says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        Experiment.parse({"method": "fedavg-lora", "data": {"source": "text", **settings}})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_task_and_too_many_examples_are_refused() -> None:
    with pytest.raises(ExperimentError, match="there is no task 'cola'"):
        text.text_clients("cola", 1, 1, 1, None, 0)
    with pytest.raises(ExperimentError, match="too many for one client"):
        text.text_clients("entailment", 1, 20_000, 1, None, 0)
