"""Any causal LM behind an encoder: tokenizers with and without special tokens, and what is refused."""

import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
)

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from tests.models.mllm.tiny_llms import (
    SMALL,
    config_of,
    made,
    samples,
    tokenizer,
    write,
)


def test_stop_and_the_number_of_text_tokens_are_settings(llms) -> None:
    model = made(llms["llama"], stop="\n###", max_text_tokens=20)
    [example] = [model.prepare(s) for s in samples(1)]
    assert model.mllm.tokenizer.decode(example.pieces.answer).endswith("###")
    assert example.truncated
    assert example.pieces.text_tokens <= 20


def without(**tokens):
    read = tokenizer()
    for name in tokens:
        setattr(read, f"{name}_token", None)
    return read


def test_a_tokenizer_needs_no_padding_and_no_start(tmp_path) -> None:
    write(tmp_path, config_of("llama"), without(pad=None, bos=None))
    model = made(tmp_path)
    assert model.mllm.tokenizer.pad_token_id is None
    assert model.mllm.tokenizer.bos_token_id is None
    examples = [model.prepare(s) for s in samples()]
    assert torch.isfinite(model.loss(examples))
    assert len(model.generate(examples, 3)) == 4


def test_a_tokenizer_without_an_end_takes_a_stop(tmp_path) -> None:
    write(tmp_path, config_of("llama"), without(pad=None, eos=None))
    with pytest.raises(ExperimentError, match=r"no end-of-text token.*give model\.stop a string"):
        made(tmp_path)
    model = made(tmp_path, stop="\n")
    examples = [model.prepare(s) for s in samples()]
    assert torch.isfinite(model.loss(examples))
    assert len(model.generate(examples, 3)) == 4


def test_a_tokenizer_larger_than_the_model_is_refused_where_it_matters(tmp_path) -> None:
    read = tokenizer()
    read.add_tokens(["zebra"])
    write(tmp_path, config_of("llama"), read, rows=len(read) - 1)
    model = made(tmp_path)
    [sample] = samples(1)
    assert torch.isfinite(model.loss([model.prepare(sample)]))
    with pytest.raises(ExperimentError, match=r"gives ' ?zebra' the id \d+, and the LLM has \d+ embeddings"):
        model.prepare(Sample("z", sample.modalities, "what is it?", "zebra"))


def test_a_vocabulary_larger_than_the_embedding_is_one_sentence(llms, tmp_path) -> None:
    for file in llms["llama"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "vocab_size": fields["vocab_size"] + 7}))
    with pytest.raises(ExperimentError, match=r"model\.llm: .* cannot be loaded") as raised:
        made(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_model_that_sees_later_tokens_is_no_causal_lm(tmp_path) -> None:
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer()), **SMALL)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ExperimentError, match="looks at later tokens; name a causal language model"):
        made(tmp_path)


def test_a_model_with_a_vision_part_of_its_own_is_native(tmp_path) -> None:
    from transformers import LlavaConfig

    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ExperimentError, match=r"is a llava model, which has a vision part.*model\.native"):
        made(tmp_path)


def test_no_such_model_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ExperimentError, match=r"model\.llm: there is no folder .*here$"):
        made(tmp_path / "nothing" / "here")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ExperimentError, match=r"model\.llm: .* cannot be loaded") as raised:
        made(tmp_path)
    assert "\n" not in str(raised.value)


# Projectors.
