"""Checkpointing computes activations twice and keeps fewer; losses, gradients and results stay the same."""

from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment
from fedloom.models.checkpointing import enable_checkpointing
from fedloom.models.training.kept_memory import kept_bytes
from tests.models.training.one_step import agree, as_dtype, ended, groups_with_gradients, jobs_of

DROPOUT = {"llm_lora": {"rank": 4, "dropout": 0.2}, "encoder_lora": {"rank": 3, "dropout": 0.1}}
TEXT = {"source": "text", "clients": {"text": 2}, "train": 12, "test": 2, "task": "entailment"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mllm": ("feda2-lora", {"data": {"clients": {"image": 1, "both": 1}, "train": 4, "test": 1}}),
    "mllm-dropout": (
        "feda2-lora",
        {"data": {"clients": {"both": 1, "audio": 1}, "train": 4, "test": 1}, "model": DROPOUT},
    ),
    "classifier": ("fedavg-lora", {"data": TEXT, "model": {"body_lora": {"rank": 4, "dropout": 0.1}}}),
    "clip": ("promptfl", {"data": {"clients": {"image": 2}}}),
}


@pytest.fixture
def model_and_examples(quick, federate):
    def make(name: str, *, checkpointing: bool) -> tuple[Any, list[Any]]:
        method, settings = MODELS[name]
        federation = federate(quick(method, **settings, engine={"checkpointing": checkpointing}))
        model = federation.engine.model
        return model, [client.examples(model)[:4] for client in federation.clients.values()]

    return make


@pytest.mark.parametrize("together", [False, True], ids=["alone", "cohort"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_without_checkpointing(name, dtype, together, model_and_examples) -> None:
    ends = []
    for checkpointing in (False, True):
        model, examples = model_and_examples(name, checkpointing=checkpointing)
        as_dtype(model, dtype)
        jobs = jobs_of(model, examples, batch_size=2)
        ends.append(ended(model, jobs, together=together))
    agree(*ends, 1e-10 if dtype == torch.float64 else 1e-5)
    assert groups_with_gradients(ends[0]) == {n.partition("/")[0] for n in model.tensors}


@pytest.mark.parametrize("name", MODELS)
def test_less_is_kept_for_the_backward_pass(name, model_and_examples) -> None:
    kept = []
    for checkpointing in (False, True):
        model, examples = model_and_examples(name, checkpointing=checkpointing)
        kept.append(kept_bytes(model, examples[0], model.tensors))
    assert kept[1] < 0.6 * kept[0]


def test_a_part_that_cannot_is_named_and_a_model_without_any_is_refused() -> None:
    from transformers import ConvNextV2Config, ConvNextV2Model, LlamaConfig, LlamaModel

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = LlamaModel(LlamaConfig(vocab_size=7, **sizes))
    tower = ConvNextV2Model(ConvNextV2Config(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1]))
    parts = {"the LLM": llm, "the image encoder": tower}
    notes = enable_checkpointing(torch.nn.ModuleList([llm, tower]), parts, lambda: None)
    assert notes == ["the image encoder does not support checkpointing, and keeps its activations"]
    with pytest.raises(
        ExperimentError, match=r"engine.checkpointing: no part of the model supports it \(tower\)"
    ):
        enable_checkpointing(tower, {"tower": tower}, lambda: None)


def test_blocks_run_in_eval_mode_and_no_embedding_asks_for_gradients(model_and_examples) -> None:
    model, examples = model_and_examples("mllm", checkpointing=True)
    modes = []
    block = model.mllm.llm.get_base_model().model.layers[0]
    block.input_layernorm.register_forward_hook(lambda module, args, output: modes.append(block.training))
    model.begin([n for n in model.tensors if n.startswith("llm")])
    features = model.features(examples[0])
    model.loss(examples[0], features).backward()
    assert modes == [False, False]  # forward, and again in the backward pass
    model.rest()
    assert not model.loss(examples[0], features).requires_grad


def test_a_run_ends_where_it_ends_without(quick, federate) -> None:
    ends = []
    for checkpointing in (False, True):
        engine = {"checkpointing": checkpointing, "cohort": 3}
        federation = federate(quick(rounds=1, engine=engine, model=DROPOUT))
        federation.run()
        ends.append(federation.state.shared)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=1e-6)


def test_own_models_read_the_setting(quick) -> None:
    assert isinstance(quick("fedmd", engine={"checkpointing": True}), Experiment)
