"""The wire: what is sent is what is read, in every type, and whatever else comes is a PayloadError."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.payload import Payload, PayloadError
from fedloom.deploy.wire import Answer, Request, fingerprint

TENSORS = {
    "llm/half": torch.tensor([[1.5, -2.0, 0.25]], dtype=torch.bfloat16),
    "llm/a": torch.arange(15.0).reshape(3, 5),
    "llm/one": torch.tensor(7, dtype=torch.int64),
    "llm/none": torch.zeros(0, 4),
}
REQUEST = Request("a" * 32, "b" * 64, "train", 3, 1, Payload(TENSORS, {"lr": 0.1, "run": "not the heading"}))
VALID = REQUEST.encode()


def test_a_question_and_an_answer_are_read_as_they_were_written() -> None:
    got = Request.decode(VALID)
    assert (got.run, got.experiment, got.name, got.round, got.step) == ("a" * 32, "b" * 64, "train", 3, 1)
    assert got.payload.numbers == {"lr": 0.1, "run": "not the heading"}
    assert all(torch.equal(got.payload.tensors[n], t) for n, t in TENSORS.items())
    assert all(got.payload.tensors[n].dtype == t.dtype for n, t in TENSORS.items())
    said = Answer.decode(Answer("north", fingerprint(VALID), Payload(TENSORS, {"examples": 3})).encode())
    assert (said.site, said.to, said.error) == ("north", fingerprint(VALID), None)
    assert said.payload.numbers == {"examples": 3}


def test_the_same_question_has_the_same_fingerprint_and_another_another() -> None:
    assert fingerprint(VALID) == fingerprint(REQUEST.encode())
    changed = {**TENSORS, "llm/a": TENSORS["llm/a"] + 1}
    other = Request("a" * 32, "b" * 64, "train", 3, 1, Payload(changed, REQUEST.payload.numbers)).encode()
    assert fingerprint(other) != fingerprint(VALID)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "../../etc"},
        {"run": "a" * 31},
        {"experiment": "b"},
        {"round": -1},
        {"round": True},
        {"round": "3"},
        {"step": 10**9},
        {"name": ""},
        {"numbers": []},
        {"more": 1},
    ],
)
def test_a_heading_that_is_none_is_not_read(wrong) -> None:
    heading = {"run": "a" * 32, "experiment": "b" * 64, "name": "t", "round": 1, "step": 0, "numbers": {}}
    Request.decode(Payload({}, heading).encode())
    with pytest.raises(PayloadError):
        Request.decode(Payload({}, {**heading, **wrong}).encode())


def _only_payload_errors(data: bytes) -> None:
    for kind in (Payload, Request, Answer):
        try:
            kind.decode(data)
        except PayloadError:
            continue


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_payload_error(data) -> None:
    _only_payload_errors(data)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=12), st.integers(0, 3))
def test_any_damage_to_a_message_is_a_message_or_a_payload_error(at, new, how) -> None:
    damaged = {
        0: VALID[:at] + new + VALID[at + len(new) :],
        1: VALID[:at] + new + VALID[at:],
        2: VALID[:at],
        3: VALID[:at] + VALID[at + len(new) :],
    }[how]
    _only_payload_errors(damaged)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["llm/x", "__metadata__", "", "a/b"]), json_values, max_size=3))
def test_any_header_is_a_message_or_a_payload_error(header) -> None:
    import json

    text = json.dumps(header).encode()
    _only_payload_errors(len(text).to_bytes(8, "little") + text + b"\0" * 64)
