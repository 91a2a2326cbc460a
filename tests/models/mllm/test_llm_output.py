"""The output layer's input in every family of language models."""

import pytest

from tests.models.mllm.tiny_llms import FAMILIES, made, samples


@pytest.mark.parametrize("name", FAMILIES)
def test_a_search_hands_over_its_states_without_gaps(name, llms) -> None:
    model = made(llms[name])
    seen = []
    head = model.mllm.llm.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.generate([model.prepare(s) for s in samples()], 2)
    assert seen
    assert all(x.is_contiguous() for x in seen)
