"""Ranking of answers: candidates, a perfect model, one that does not look, and a multimodal LLM's own likelihood."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample, Turn
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.models.feature_cache import FeatureCache
from fedloom.tasks.evaluation import Evaluation, TestSet, evaluate
from fedloom.tasks.question_answering import control, measure_controls
from fedloom.tasks.ranking import candidates, rank

SETTINGS = Evaluation(ranking=8, batch_size=16)


def shown(i: int, answer: str | None = None, question: str = "what is it?") -> Sample:
    return Sample(f"s{i}", {"image": torch.full((2,), float(i))}, question, answer or f"thing {i}")


class Viewer:
    """Its loss of an answer is that of `habit`, and lower by 10 where the picture shows the answer, if it looks."""

    store = FeatureCache()

    def __init__(self, habit: Sequence[float], looks: bool = True) -> None:
        self.habit, self.looks = list(habit), looks

    def prepare(self, s: Sample) -> Sample:
        return s

    def with_answer(self, example: Sample, s: Sample) -> Sample:
        return replace(example, answer=s.answer)

    def features(self, examples: Sequence[Sample]) -> list[int | None]:
        return [int(e.modalities["image"][0]) if e.modalities else None for e in examples]

    def losses(self, examples: Any, owners: Sequence[int], count: int, features: Any) -> torch.Tensor:
        losses = [0.0] * count
        for example, owner, seen in zip(examples, owners, features, strict=True):
            named = int(example.answer.split(" ")[-1])
            losses[owner] = self.habit[named] - 10.0 * (self.looks and seen == named)
        return torch.tensor(losses)

    def score(self, examples: Sequence[Sample], features: Any) -> list[tuple[int, int]]:
        return [(1, 0) for _ in examples]

    def generate(self, examples: Sequence[Sample], limit: int, features: Any) -> list[str]:
        return ["" for _ in examples]


def ranked(model: Viewer, tests: TestSet) -> float:
    """The share that is ranked first."""
    records = evaluate(model, tests, SETTINGS, generate=True)
    return fmean(r.ranked for r in records if r.ranked is not None)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.integers(0, 5))
def test_a_perfect_model_ranks_all_first_and_one_that_does_not_look_an_eighth(habit, more) -> None:
    tests = TestSet.prepare({"a": [shown(i) for i in range(8)]}, Viewer(habit))
    assert ranked(Viewer(habit), tests) == 1.0
    assert ranked(Viewer(habit, looks=False), tests) == pytest.approx(1 / 8)
    longer = TestSet.prepare({"a": [shown(i) for i in range(8 + more)]}, Viewer(habit))
    assert ranked(Viewer([0.5] * 13, looks=False), longer) == pytest.approx(1 / 8), "ties share the place"


def test_of_another_picture_a_perfect_model_is_never_better_than_chance() -> None:
    model = Viewer([0.5] * 12)
    tests = TestSet.prepare({"a": [shown(i) for i in range(12)]}, model)
    assert ranked(model, control(tests, "image", "shuffled", model)) <= 1 / 8
    assert ranked(model, control(tests, "image", "removed", model)) == pytest.approx(1 / 8)
    found = measure_controls(model, tests, SETTINGS)
    assert found["control/image/shuffled/ranked_first"] <= 1 / 8 < ranked(model, tests)


def test_candidates_are_a_clients_other_answers_to_the_same_question() -> None:
    many = [shown(i) for i in range(10)]
    few = [shown(i, question="which of these?") for i in range(7)]
    twice = [shown(3)]
    told = [
        replace(shown(20 + i), turns=(Turn("user", ("a",)), Turn("assistant", ("b",))) * 2) for i in range(9)
    ]
    samples = [*many, *few, *twice, *told]
    found = candidates(["a"] * len(samples), samples, 8, None)
    assert [c.place for c in found] == [*range(10), 17]
    for candidate in found:
        assert candidate.answers[0] == samples[candidate.place].answer
        assert len({*candidate.answers}) == 8
    wrong = [answer for c in found[:10] for answer in c.answers[1:]]
    assert {wrong.count(f"thing {i}") for i in range(10)} == {7}, "every answer is as often a wrong one"
    assert not candidates(["a"] * 5 + ["b"] * 5, many, 8, None), "ten answers of two clients"
    assert len(candidates(["a"] * 10, many, 8, 3)) == 3


def test_a_multimodal_llm_ranks_by_its_loss_of_the_prepared_answer(quick) -> None:
    experiment: Experiment = quick(evaluation={"ranking": 2, "controls": False, "samples": 2})
    clients = experiment.task.clients(experiment.setup)
    model = experiment.task.model({c.name: c.holds for c in clients}, experiment.setup)
    sample = next(s for c in clients for s in c.train if s.kind == "image")
    other = replace(sample, answer="green green")
    example = model.prepare(sample)
    assert model.losses([model.with_answer(example, other)], [0], 1).item() == pytest.approx(
        model.losses([model.prepare(other)], [0], 1).item()
    )
    blind = model.prepare(replace(sample, modalities={}))
    features = model.features([blind])
    assert model.with_answer(blind, sample).pieces == blind.pieces, "a removed input stays removed"
    listed = candidates(["a", "a"], [sample, replace(other, uid="o")], 2, None)
    found = rank(
        model, [sample, sample], [example, example], listed[:1], lambda p: model.features([example]), 4
    )
    assert found[0] in (0.0, 1.0)
    assert features == [{}]


def test_a_task_without_answers_in_words_refuses_the_setting(tmp_path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("method: fedavg-lora\ndata: {source: text}\nevaluation: {ranking: 8}\n")
    with pytest.raises(ExperimentError, match=r"evaluation\.ranking"):
        load_rows(file)
    file.write_text("method: fedavg-lora\nevaluation: {ranked: 8}\n")
    with pytest.raises(ExperimentError, match=r"evaluation\.ranked"):
        load_rows(file)
