"""The output layer's input in every native family."""

import pytest
import torch

from tests.models.native.tiny_families import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_a_searchs_last_positions_reach_the_output_layer_without_gaps(name, native) -> None:
    head = native(name).model.get_output_embeddings()
    seen = []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    states = torch.randn(3, 5, head.weight.shape[1], dtype=head.weight.dtype)
    logits = head(states[:, -1:])
    assert seen[0].is_contiguous()
    assert torch.equal(seen[0], states[:, -1:])
    assert torch.equal(logits, head(states[:, -1:].contiguous()))
