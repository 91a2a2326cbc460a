import contextlib
import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.payload import Payload, PayloadError, Scope, group_of, lent, not_finite

A, B, P = "encoder.image/blocks.0.q_proj.lora_A", "llm/layers.1.v_proj.lora_B", "projector/weight"


def test_scope_splits_tensors_into_three_roles_personal_first() -> None:
    scope = Scope(shared=("encoder.*", "projector"), personal=("*lora_B",))
    tensors = {
        A: torch.zeros(1),
        B: torch.zeros(1),
        P: torch.zeros(1),
        "head/x.lora_B": torch.zeros(1),
        "head/x": torch.ones(1),
    }
    assert list(scope.pick(tensors, "shared")) == [A, P]
    assert list(scope.pick(tensors, "personal")) == ["head/x.lora_B", B]
    assert list(scope.pick(tensors, "frozen")) == ["head/x"]
    assert Scope(shared=("encoder",)).role(A) == "frozen", (
        "a pattern names the whole group, not its beginning"
    )


def test_bytes_are_elements_times_element_size_by_group() -> None:
    payload = Payload({A: torch.zeros(3, 5, dtype=torch.bfloat16), B: torch.zeros(7, 2), P: torch.zeros(4)})
    assert payload.nbytes == 3 * 5 * 2 + 7 * 2 * 4 + 4 * 4
    assert payload.nbytes_by_group() == {"encoder.image": 30, "llm": 56, "projector": 16}
    assert payload.only(lambda n: group_of(n) == "llm").nbytes == 56


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_wire_round_trip_is_exact(dtype: torch.dtype) -> None:
    transposed = torch.arange(6).reshape(2, 3).T.to(dtype)
    tensors = {
        A: torch.arange(15).reshape(3, 5).to(dtype),
        B: transposed,
        "llm/none": torch.zeros(0, 4, dtype=dtype),
    }
    numbers = {"examples": 3, "loss": 0.1, "note": "grüße", "round": 2}
    back = Payload.decode(Payload(tensors, numbers).encode())
    assert back.numbers == numbers
    for name, tensor in tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == dtype


def test_equal_payloads_give_equal_bytes_whatever_their_order() -> None:
    one = Payload({A: torch.ones(2), B: torch.zeros(3)}, {"a": 1, "b": 2})
    two = Payload({B: torch.zeros(3), A: torch.ones(2)}, {"b": 2, "a": 1})
    assert one.encode() == two.encode()


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_raises_anything_else(data: bytes) -> None:
    with pytest.raises(PayloadError):
        Payload.decode(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_harmless(place: int, value: int) -> None:
    data = bytearray(Payload({A: torch.ones(2, 3)}, {"round": 1}).encode())
    data[place % len(data)] = value
    with contextlib.suppress(PayloadError):
        Payload.decode(bytes(data))


def test_numbers_that_are_no_object_are_refused() -> None:
    header = json.dumps({"__metadata__": {"numbers": "[1, 2]"}}).encode()
    header += b" " * (-len(header) % 8)
    with pytest.raises(PayloadError, match="JSON object"):
        Payload.decode(struct.pack("<Q", len(header)) + header)


def test_a_detached_payload_shares_no_memory() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    kept = Payload({A: parameter}).detached()
    with torch.no_grad():
        parameter.add_(1)
    assert kept.tensors[A].tolist() == [1.0, 1.0]
    assert not kept.tensors[A].requires_grad


def test_a_lent_tensor_is_copied_when_one_side_writes_and_not_before() -> None:
    own = torch.ones(3, 4)
    first, second = lent(own), lent(own[:, 1:])
    assert torch._C._is_cow_tensor(first)
    assert first.sum() == 12
    assert torch._C._is_cow_tensor(first), "reading copies nothing"
    first.add_(1)
    second.zero_()
    assert own.eq(1).all()
    third = lent(own)
    own.fill_(5)
    assert third.eq(1).all()
    assert first.eq(2).all()


def test_memory_of_another_library_is_copied_at_once() -> None:
    array = np.ones(3, dtype=np.float32)
    kept = lent(torch.from_numpy(array))
    array[:] = 7
    assert kept.tolist() == [1.0, 1.0, 1.0]


def test_the_first_tensor_that_is_not_finite_is_found_and_an_overflowing_sum_is_no_fault() -> None:
    large = torch.full((9,), 3e38)
    tensors = {
        "a": large,
        "b": torch.ones(2, dtype=torch.int64),
        "c": torch.zeros(0),
        "d": torch.full((9,), 6e4).half(),
    }
    assert not bool(torch.isfinite(large.sum()))
    assert not_finite(tensors) is None
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([math.inf, -math.inf]), torch.tensor(math.inf)):
        assert not_finite({**tensors, "e": bad, "f": bad}) == "e"
