"""A method's state forgets a client that has left, and a client without its state refuses."""

import pytest
import torch

from fedloom.core.payload import Reply
from fedloom.methods import METHODS, State
from fedloom.methods.base import merged_lora


def change(width: int, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return {"llm/q.": (torch.randn(3, width, generator=g), torch.randn(width, 4, generator=g))}


def test_a_client_that_joins_again_is_sent_all_changes_of_the_base() -> None:
    method, state = METHODS["flora"](), State({})
    for seed in range(2):
        state = merged_lora.extend(state, change(2, seed), [Reply("a"), Reply("b")])
    sent = merged_lora.send(method.without(state, "b"), ["a", "b"], {})
    assert {c: p.tensors["llm/q.merged_A"].shape[0] for c, p in sent.items()} == {"a": 2, "b": 4}
    with pytest.raises(ValueError, match=r"llm/q\.merged_A has 0 of the 2 earlier directions"):
        merged_lora.receive(sent["a"], {})
    _, base = merged_lora.receive(
        sent["b"], {"llm/q.merged_A": torch.ones(2, 4), "llm/q.merged_B": torch.ones(3, 2)}
    )
    assert torch.equal(base["llm/q.merged_B"], state.tensors["llm/q.merged_B"])
    fresh = State({})
    assert method.without(fresh, "b") is fresh


def test_the_context_of_a_client_that_has_left_is_no_experts_any_more() -> None:
    method = METHODS["pfedmoap"]()
    state = State({}, {f"last/{c}": torch.full((2, 3), float(i)) for i, c in enumerate("abc")})
    left = method.without(state, "b")
    assert sorted(left.tensors) == ["last/a", "last/c"]
    assert METHODS["fedavg"]().without(state, "b") is state
