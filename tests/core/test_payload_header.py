"""Payloads made by hand: whatever the header says, a payload or PayloadError, and memory within ten times the bytes."""

import json
import struct
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.payload import Limits, Payload, PayloadError

DEFAULT = Limits()
FIXED = 32 * 10**6
"""Bytes beside ten times the input that decoding may take."""


def raw(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: Any, start: int = 0, end: int = 0, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def numbers(text: Any) -> bytes:
    return raw({"__metadata__": {"numbers": text}})


def refused(data: bytes, limits: Limits = DEFAULT) -> str:
    with pytest.raises(PayloadError) as caught:
        Payload.decode(data, limits)
    return str(caught.value)


def peak(data: bytes) -> int:
    """The largest number of bytes that Python holds while `data` is decoded."""
    tracemalloc.start()
    try:
        Payload.decode(data)
    except PayloadError:
        pass
    finally:
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return highest


@pytest.mark.parametrize(
    "data",
    [
        raw({"a": entry([2**63, 0])}),
        raw({"a": entry([2**62, 2**62, 0])}),
        raw({"a": entry([0] * 60)}),
        raw({"a": entry([-1, 0])}),
        raw({"a": entry([True])}, b"1234"),
        raw({"a": entry("1", 0, 4)}, b"1234"),
        raw({"a": entry([1], 0, 4, "F99")}, b"1234"),
        raw({"a": entry([2], 0, 1, "F4")}, b"1"),
        raw({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"123456"),
        raw({"a": entry([1], 0, 4)}, b"1"),
        raw({"a": None}),
        raw({"a": {}}),
        raw([1]),
        raw(b"\xff\xfe"),
        raw(b"[" * 100_000),
        raw(b'{"a":' + json.dumps(entry([0])).encode() + b',"a":' + json.dumps(entry([0])).encode() + b"}"),
        numbers("[" * 3000 + "]" * 3000),
        numbers('{"a": ' * 3000 + "1" + "}" * 3000),
        numbers('{"a": ' + "9" * 5000 + "}"),
        numbers('{"round": 1, "round": 2}'),
        numbers([1]),
        numbers(None),
        raw({"__metadata__": []}),
        struct.pack("<Q", 2**63) + b"{}",
        b"\0" * 7,
    ],
)
def test_a_header_that_is_wrong_is_a_payload_error(data) -> None:
    assert refused(data).startswith(f"these {len(data)} bytes are no payload: ")


def test_what_a_header_may_hold_is_a_setting() -> None:
    tensors = {f"llm/{i}": torch.zeros(1) for i in range(30)}
    data = Payload(tensors, {"figures": list(range(50))}).encode()
    assert "30 tensors, at most 20" in refused(data, Limits(max_tensors=20))
    assert "more than 40 values" in refused(data, Limits(max_values=40))
    assert len(Payload.decode(data, Limits(max_tensors=30, max_values=60)).tensors) == 30


def test_the_tensors_of_a_large_adapter_pass() -> None:
    data = Payload({f"llm/layers.{i}.q_proj.lora_A": torch.zeros(1) for i in range(12_000)}).encode()
    assert len(Payload.decode(data).tensors) == 12_000


@pytest.mark.parametrize(
    "data",
    [
        numbers('{"a": [' + "[]," * 5_000_000 + "[]]}"),
        numbers('{"a": [' + "[]," * 99_000 + "[]]}"),
        numbers('{"a": "' + "x" * 3_000_000 + "\\ud83d\\ude00" + '"}'),
        raw({str(i): entry([0], 0, 0, "U8") for i in range(20_000)}),
        raw({str(i): entry([1], i, i + 1, "U8") for i in range(200_000)}, b"x" * 200_000),
        raw({"__metadata__": {str(i): "" for i in range(300_000)}}),
        raw({"a": entry([1] * 300_000, 0, 4)}, b"1234"),
    ],
    ids=["five million lists", "lists", "text", "tensors", "many tensors", "metadata", "shape"],
)
def test_a_header_takes_at_most_ten_times_its_size(data) -> None:
    assert peak(data) <= 10 * len(data) + FIXED


sizes = st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**30]), st.none())
units = st.sampled_from(["[],", '{"a":1},', '"",', "[[[[]]]],", '"a","\\u00e9",', "1e999,", "NaN,"])


@st.composite
def headers(draw: Any) -> bytes:
    """Headers with any shapes, dtypes, offsets and numbers; some parts repeated many times."""
    repeat = draw(st.sampled_from([1, 1, 1, 3000, 30_000]))
    tensors: dict[str, Any] = {}
    at = 0
    for i in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(sizes, max_size=4) | st.just([1] * repeat))
        size = draw(st.integers(0, 40) | sizes)
        start = draw(st.sampled_from([at, 0, -1, 2**64]))
        end = start + (size or 0)
        at = max(end, 0)
        dtype = draw(st.sampled_from(["F32", "BF16", "U8", "BOOL", "I64", "F8_E4M3", "F4", "X", 3, None]))
        tensors[f"llm/{i}"] = entry(shape, start, end, dtype)
    inner = '{"round": [' + draw(units) * repeat + "1]}"
    if draw(st.booleans()):
        tensors["__metadata__"] = {"numbers": draw(st.sampled_from([inner, "[" * repeat, inner[:-1]]))}
    return raw(tensors, b"\1" * min(at, 200))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(headers())
def test_any_header_is_a_payload_or_a_payload_error_within_ten_times_its_size(data) -> None:
    assert peak(data) <= 10 * len(data) + 4 * 10**6
