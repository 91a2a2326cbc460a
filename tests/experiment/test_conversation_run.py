"""A run on conversations: from a source to the answers in the report, with controls and poisoned samples."""

import json
from typing import Literal

import pytest
import torch

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.conversation import last_answer, last_question, turns_of
from fedloom.data.poison import COLOUR, flipped, trigger
from fedloom.data.sample import Sample, key_of
from fedloom.data.sources.source import Source
from fedloom.experiment import provenance
from fedloom.tasks.evaluation import TestSet
from fedloom.tasks.question_answering import control


def talk(uid: str, count: int, second: str) -> Sample:
    keys = [key_of("image", n + 1) for n in range(count)]
    rng = torch.Generator().manual_seed(sum(map(ord, uid)))
    media = {k: torch.randint(0, 256, (3, 48, 48), generator=rng, dtype=torch.uint8) for k in keys}
    said = [
        {"from": "human", "value": "<image>\n" * count + "what shape is it?"},
        {"from": "gpt", "value": "a circle"},
        {"from": "human", "value": "what colour?"},
        {"from": "gpt", "value": second},
    ]
    turns = turns_of(said, keys)
    return Sample(uid, media, last_question(turns), last_answer(turns), turns=turns)


class Talks(Source):
    for_task = "question-answering"

    source: Literal["talks"] = "talks"

    def deal(self, seed, features=None):
        made = [talk(f"t{i}", 1 + i % 2, ("red", "blue", "red")[i % 3]) for i in range(12)]
        return [ClientData("one", made[:4], made[4:6]), ClientData("two", made[6:10], made[10:])]


@pytest.fixture(scope="module", autouse=True)
def registered():
    fedloom.register(Talks)


def settings():
    training, few = {"epochs": 1, "batch_size": 2}, {"controls": False, "max_new_tokens": 4}
    return {
        "rounds": 1,
        "method": "fedavg-lora",
        "data": {"source": "talks"},
        "training": training,
        "evaluation": few,
    }


def test_a_run_tests_the_last_answer_and_shows_the_first_picture_with_their_number(tmp_path) -> None:
    run = fedloom.run(fedloom.Experiment.parse(settings()), tmp_path / "run")
    assert run is not None
    entries = json.loads((tmp_path / "run" / "samples" / "samples.json").read_text())
    two = next(e for e in entries if e["uid"] == "t5")
    assert (two["question"], two["reference"], two["exchanges"]) == ("what colour?", "red", 2)
    assert two["counts"] == {"image": 2}
    assert all("counts" not in e for e in entries if e["uid"] == "t4")
    predicted = [
        json.loads(line) for line in (tmp_path / "run" / "predictions-end.jsonl").read_text().splitlines()
    ]
    assert {p["uid"] for p in predicted} == {"t4", "t5", "t10", "t11"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "image, the first of 2" in page
    assert "question, the last of 2" in page


def test_a_changed_earlier_answer_is_other_data() -> None:
    one, two = talk("a", 1, "red"), talk("a", 1, "red")
    turns = turns_of([{"role": "user", "content": "?"}, {"role": "assistant", "content": "red"}], ["image"])
    other = Sample("a", one.modalities, one.question, one.answer, turns=turns)
    assert provenance._texts(one) == provenance._texts(two) != provenance._texts(other)


def test_controls_and_poison_keep_the_conversation() -> None:
    samples = [talk("a", 2, "red"), talk("b", 1, "blue"), talk("c", 2, "blue")]

    class Model:
        def prepare(self, sample):
            return sample

    tests = TestSet(["x"] * 3, samples, samples)
    removed = control(tests, "image", "removed", Model()).examples[0]
    assert [t.parts for t in removed.conversation] == [
        ("what shape is it?",),
        ("a circle",),
        ("what colour?",),
        ("red",),
    ]
    shuffled = control(tests, "image", "shuffled", Model()).examples[0]
    assert torch.equal(shuffled.modalities["image-2"], samples[2].modalities["image-2"])
    assert shuffled.turns == samples[0].turns
    marked = trigger(samples[0], "owned", 0.1)
    assert all(marked.modalities[k][:, -1, -1].tolist() == list(COLOUR) for k in ("image", "image-2"))
    assert [t.text for t in marked.conversation if t.role == "assistant"] == ["a circle", "owned"]
    assert flipped(samples)[0].conversation[-1].text == "blue"


def test_models_of_one_picture_refuse_two_in_one_sentence() -> None:
    from fedloom.models.clip.trainable import AdaptedCLIP
    from fedloom.models.own.model_bank import ModelBank

    sample = talk("a", 2, "red")
    labelled = Sample("a", sample.modalities, "", "red", {"label": 0, "classes": "base"})
    with pytest.raises(
        ExperimentError, match="a has several inputs of image, and clients with models of their own read one"
    ):
        ModelBank.prepare(object.__new__(ModelBank), labelled, "x")
    with pytest.raises(ExperimentError, match="a is no picture of a class"):
        AdaptedCLIP.prepare(object.__new__(AdaptedCLIP), labelled)
