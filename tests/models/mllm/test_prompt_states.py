"""FedDPA's prompt states: the frozen LLM's last layer at the prompt's last token, whatever the adapters and the batch."""

from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM

from tests.models.mllm.tiny_llms import made, samples


def test_a_prompt_state_is_the_plain_llms_at_the_prompts_last_token(llms) -> None:
    model = made(llms["llama"])
    asked = [replace(s, question="what colour is it? " * (i + 1)) for i, s in enumerate(samples())]
    examples = [model.prepare(s) for s in asked]
    g = torch.Generator().manual_seed(0)
    model.load(
        {n: t + torch.randn(t.shape, generator=g) for n, t in model.start.items() if n.startswith("llm/")}
    )
    states = model.prompt_states(examples)
    plain = AutoModelForCausalLM.from_pretrained(llms["llama"]).eval()
    table = plain.get_input_embeddings()
    lengths = set()
    for example, found in zip(examples, states, strict=True):
        features = model.features([example])[0]
        with torch.no_grad():
            rows = [
                model.mllm.project(run, features[run]) if isinstance(run, str) else table(torch.tensor(run))
                for run in example.pieces.prompt
            ]
            embeds = torch.cat(rows)[None]
            want = plain(inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1][0, -1]
            adapted = model.mllm.llm(inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1][0, -1]
        lengths.add(embeds.shape[1])
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        assert float((adapted - want).abs().max()) > 1e-2  # the adapters would show
    assert len(lengths) == 4
