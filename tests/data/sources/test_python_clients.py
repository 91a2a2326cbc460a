"""Clients given in Python: samples pass the checks of rows and files, and the record does without them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import fedloom as fl
from fedloom.core.errors import ExperimentError
from fedloom.data.sources import parse_source


def pictures(*answers: str, part: str = "answer") -> list[dict[str, Any]]:
    """Pictures of different colours."""
    return [{"image": Image.new("RGB", (9, 9), (i, 0, 0)), part: answer} for i, answer in enumerate(answers)]


def test_every_client_has_its_samples_in_both_parts() -> None:
    sounds = [{"audio": np.full(160, 0.1 * i), "rate": 16000, "answer": str(i)} for i in range(5)]
    clients = fl.clients({"b": pictures(*"vwxyz"), "a": sounds}, test_share=0.4).load(0)
    assert [(c.name, c.holds, len(c.train), len(c.test)) for c in clients] == [
        ("a", ("audio",), 3, 2),
        ("b", ("image",), 3, 2),
    ]
    samples = [s for c in clients for part in (c.train, c.test) for s in part]
    assert len({s.uid for s in samples}) == 10
    assert {s.answer for s in clients[1].train} | {s.answer for s in clients[1].test} == {*"vwxyz"}
    (first,) = [s for s in samples if s.uid == "b/3"]
    assert first.answer == "x"
    assert first.modalities["image"][0].unique().tolist() == [2]


def test_a_split_and_one_question_for_all_are_followed() -> None:
    samples = [{**s, "split": p} for s, p in zip(pictures(*"abc"), ("train", "test", "train"), strict=True)]
    (client,) = fl.clients({"one": samples}, question="which letter?").load(0)
    assert [s.answer for s in client.test] == ["b"]
    assert {s.question for s in client.train} == {"which letter?"}


def test_labels_make_a_classifier_and_the_record_says_so() -> None:
    data = fl.clients({"one": pictures("cat", "dog", "cat", "dog", part="label")})
    assert data.task_name == "classification"
    record = data.settled(data.load(0)).model_dump(mode="json")
    assert "clients" not in record
    again = parse_source(record)
    assert (again.task_name, again.labels) == ("classification", ("cat", "dog"))
    with pytest.raises(ExperimentError, match="lie in the program that gave them"):
        again.load(0)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({}, "clients: should map each client's name to its samples"),
        ([{}], "clients: should map each client's name"),
        ({"a/b": pictures("x")}, "a client called 'a/b'"),
        ({3: pictures("x")}, "a client called 3"),
        ({"a": pictures("x")[0]}, "client 'a' should have a list of samples"),
        ({"a": ["x"]}, "sample 1 of client 'a' should be a mapping"),
        ({"a": [{"img": 1}]}, "sample 1 of client 'a' has 'img'"),
        ({"a": [{"image": np.zeros((4, 4)), "answer": "x"}]}, "sample 1 of client 'a': image is an array of"),
        ({"a": [{"audio": np.zeros(9), "answer": "x"}]}, "audio is an array, and needs its rate"),
        ({"a": [{"rate": 8000, "answer": "x"}]}, "a rate without audio"),
        (
            {"a": [{"image": "nowhere.png", "answer": "x"}]},
            "names the file 'nowhere.png', which is not there",
        ),
        ({"a": [{"depth": np.zeros((4, 4)), "answer": "x"}]}, "depth should be a file"),
    ],
)
def test_a_fault_is_named_with_its_client_and_sample(samples: Any, says: str) -> None:
    with pytest.raises(ExperimentError, match=says) as error:
        fl.clients(samples)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([], "client 'a' has no samples"),
        ([{"question": "x"}], "no sample of client 'a' has an answer or a label"),
        ([{"image": Image.new("L", (1, 400)), "answer": "x"}], "data.media.aspect allows a ratio of 100"),
        ([{"image": b"no picture", "answer": "x"}], "sample 1 of client 'a', column 'image'"),
        (pictures("x", "x", part="label"), "a classifier needs two classes or more"),
    ],
)
def test_samples_pass_the_checks_of_files(samples: Any, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        fl.clients({"a": samples}).load(0)


def test_settings_are_those_of_data() -> None:
    with pytest.raises(ExperimentError, match="did you mean question"):
        fl.clients({"a": pictures("x")}, quesion="what?")
    with pytest.raises(ExperimentError, match="leave columns out"):
        fl.clients({"a": pictures("x")}, columns={"answer": "y"})
