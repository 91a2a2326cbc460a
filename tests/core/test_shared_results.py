"""Results that several runs of a process share."""

import torch

from fedloom.core.shared_results import SharedResults, key_of


def test_a_result_is_made_once_and_the_newest_are_kept_within_the_limit() -> None:
    made: list[bytes] = []

    def make(key: bytes, length: int = 4) -> str:
        made.append(key)
        return "x" * length

    store: SharedResults[str] = SharedResults(len, limit=10)
    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert store.of(key, lambda key=key: make(key)) == "xxxx"
    assert made == [b"a", b"b", b"c", b"b"], "b was used longest ago when c came"
    store.of(b"large", lambda: make(b"large", 11))
    store.of(b"large", lambda: make(b"large", 11))
    assert made[-2:] == [b"large", b"large"], "larger than the store: made anew"
    assert store.of(b"b", lambda: make(b"b")) == "xxxx"
    assert len(made) == 6, "and nothing was dropped for it"


def test_a_key_tells_values_names_types_settings_and_threads_apart() -> None:
    one = torch.arange(4.0)
    keys = {
        key_of({"a": one}),
        key_of({"b": one}),
        key_of({"a": one.reshape(2, 2)}),
        key_of({"a": one.to(torch.bfloat16)}),
        key_of({"a": one + 1}),
        key_of({"a": one}, 1),
        key_of({"a": one}, "1"),
        key_of({"a": one, "b": one}),
    }
    assert len(keys) == 8
    assert key_of({"a": one, "b": one + 1}, 1) == key_of({"b": one + 1, "a": one.clone()}, 1)
    threads, before = torch.get_num_threads(), key_of({"a": one})
    try:
        torch.set_num_threads(threads + 1)
        assert key_of({"a": one}) != before
    finally:
        torch.set_num_threads(threads)
