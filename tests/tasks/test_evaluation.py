from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fedloom.core.activity import stage, told_to
from fedloom.data.sample import Sample
from fedloom.models.feature_cache import FeatureCache
from fedloom.tasks.evaluation import Evaluation, TestSet, assess
from fedloom.tasks.personal_batches import ClientModel
from fedloom.tasks.question_answering import control, measure_controls


def sample(i: int, kind: str, answer: str) -> Sample:
    inputs = {} if kind == "text" else {kind: torch.full((2,), float(i))}
    return Sample(f"{kind}-{i}", inputs, "what?", answer)


class Parrot:
    """Answers with what it sees; what it sees is what it was loaded with, plus the input's first value."""

    value = 0.0
    store = FeatureCache()

    def load(self, tensors: Any, ratios=None) -> None:
        self.value = float(tensors["llm/v"])

    def prepare(self, s: Sample) -> Sample:
        return s

    def features(self, examples: Sequence[Sample]) -> list[None]:
        return [None] * len(examples)

    def _say(self, s: Sample) -> str:
        seen = next((float(t[0]) for t in s.modalities.values()), 0.0)
        return str(int(self.value + seen))

    def score(self, examples: Sequence[Sample], features: Any = None) -> list[tuple[int, int]]:
        return [(2, 2 if self._say(s) == s.answer else 1) for s in examples]

    def generate(self, examples: Sequence[Sample], limit: int, features: Any = None) -> list[str]:
        return [self._say(s) for s in examples]


@pytest.fixture
def tests() -> TestSet:
    parts = {
        "b": [sample(i, "image", str(i)) for i in range(1, 5)],
        "a": [sample(7, "text", "0"), sample(9, "audio", "9")],
    }
    return TestSet.prepare(parts, Parrot())


def shared(value: float) -> dict[str, torch.Tensor]:
    return {"llm/v": torch.tensor(value)}


def test_the_progress_says_whose_model_is_on_whose_samples(tests: TestSet) -> None:
    told: list[str] = []
    own = {c: ClientModel(shared(0)) for c in ("a", "b")}
    with told_to(told.append), stage("round 1/1"):
        assess(Parrot(), shared(0), own, tests, Evaluation(), generate=False, everywhere=True)
        assess(Parrot(), {}, {"b": own["b"]}, tests, Evaluation(), generate=False, everywhere=True)
    assert told == [
        "round 1/1, the common model, evaluating, 0 of 6 samples",
        "round 1/1, a (1 of 2), evaluating, 0 of 2 samples",
        "round 1/1, b (2 of 2), evaluating, 0 of 4 samples",
        "round 1/1, b (1 of 1) on all clients' samples, evaluating, 0 of 6 samples",
    ]


def test_global_is_the_shared_model_on_everybodys_samples(tests: TestSet) -> None:
    found = assess(Parrot(), shared(0), {}, tests, Evaluation(), generate=True, everywhere=True)
    assert found.metrics["global/image/exact_match"] == 1.0
    assert found.metrics["global/image/token_accuracy"] == 1.0
    off = assess(Parrot(), shared(5), {}, tests, Evaluation(), generate=True, everywhere=True)
    assert off.metrics["global/image/exact_match"] == 0.0
    assert off.metrics["global/image/token_accuracy"] == 0.5
    assert set(found.clients) == {"a", "b"}


def test_local_is_each_clients_own_model_on_its_own_samples(tests: TestSet) -> None:
    personal = {"a": ClientModel(shared(1)), "b": ClientModel(shared(0))}
    found = assess(Parrot(), {}, personal, tests, Evaluation(), generate=True, everywhere=True).metrics
    assert found["local/image/exact_match"] == 1.0, "b's model on b's pictures"
    assert found["local/text/exact_match"] == 0.0, "a's model on a's text"
    assert found["global/image/exact_match"] == 0.5, "the mean over both clients' models"
    cheap = assess(Parrot(), {}, personal, tests, Evaluation(), generate=True, everywhere=False).metrics
    assert not any(name.startswith("global/") for name in cheap)


def test_own_samples_among_everybodys_are_answered_once_and_count_as_alone(tests: TestSet) -> None:
    class Counting(Parrot):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def generate(self, examples, limit, features=None):
            self.asked += [e.uid for e in examples]
            return super().generate(examples, limit, features)

    personal = {"a": ClientModel(shared(1)), "b": ClientModel(shared(0))}
    model = Counting()
    found = assess(model, {}, personal, tests, Evaluation(), generate=True, everywhere=True)
    assert sorted(model.asked) == sorted([s.uid for s in tests.samples] * 2)
    alone = assess(Parrot(), {}, personal, tests, Evaluation(), generate=True, everywhere=False)
    assert found.records == alone.records
    assert found.clients == alone.clients
    assert alone.metrics.items() <= found.metrics.items()


def test_batch_size_changes_no_figure(tests: TestSet) -> None:
    one, many = (
        assess(
            Parrot(), shared(0), {}, tests, Evaluation(batch_size=b), generate=True, everywhere=True
        ).metrics
        for b in (1, 64)
    )
    assert one == many


def test_controls_destroy_the_input_and_nothing_else(tests: TestSet) -> None:
    model = Parrot()
    removed = control(tests, "image", "removed", model)
    zeroed = control(tests, "image", "zeroed", model)
    shuffled = control(tests, "image", "shuffled", model)
    assert all(not e.modalities for e in removed.examples)
    assert all(not e.modalities["image"].any() for e in zeroed.examples)
    assert [int(e.modalities["image"][0]) for e in shuffled.examples] == [2, 3, 4, 1], "each gets another's"
    for part in (removed, zeroed, shuffled):
        assert [e.answer for e in part.examples] == ["1", "2", "3", "4"]
        assert [e.question for e in part.examples] == ["what?"] * 4
        assert list(part.of) == ["b"] * 4


def test_control_figures_are_named_for_what_was_destroyed(tests: TestSet) -> None:
    model = Parrot()
    model.load(shared(0))
    found = measure_controls(model, tests, Evaluation())
    assert found["control/image/shuffled/exact_match"] == 0.0
    assert found["control/image/zeroed/exact_match"] == 0.0
    assert found["control/audio/removed/token_accuracy"] == 0.5
    assert not any("text" in name for name in found), "a text sample has no input to destroy"
