"""Adapters on any causal LM: their targets, cohorts, PEFT, merged and uniform forms."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from fedloom.core.errors import ExperimentError
from fedloom.models.lora.layers import LoRA
from fedloom.models.lora.uniform import make_uniform
from fedloom.models.merged import stored_dtype
from fedloom.models.mllm.load import load_model
from fedloom.models.settings import Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.mllm.tiny_llms import FAMILIES, made, samples
from tests.models.readers import READERS, apply, trained, uneven


@pytest.mark.parametrize("name", FAMILIES)
def test_auto_adapts_the_attention_and_a_cohort_ends_as_one_after_another(name, llms) -> None:
    model = made(llms[name])
    assert set(model.specs["llm"].targets) == FAMILIES[name][2]
    line = next(n for n in model.notes if n.startswith("adapted in llm: "))
    assert all(f"{t.rsplit('.')[-1]} ×2" in line for t in FAMILIES[name][2])
    assert "not adapted" not in line
    model.root.double()
    model.start = {n: t.double() for n, t in model.start.items()}
    examples = [model.prepare(s) for s in samples()]
    training = Training(schedule="simultaneous", batch_size=2, projector="both", lr=0.01)
    jobs = [
        LocalJob(c, e, {}, frozenset(model.tensors), training, 0, 1, 1, {})
        for c, e in (("a", examples[:2]), ("b", examples[2:]))
    ]
    alone = [train_one(model, j) for j in jobs]
    for one, other in zip(alone, train_cohort(model, jobs), strict=True):
        assert all(t.any() for n, t in one.tensors.items() if n.endswith("_B"))
        for n, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[n], tensor, atol=1e-5, rtol=1e-4, msg=n)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_peft_reads_the_adapters_with_what_the_server_merged_into_the_base(
    name, targets, llms, tmp_path
) -> None:
    from peft import PeftModel

    model = made(llms[name], llm_lora={"rank": 2, "targets": targets})
    model.root.double()
    draw = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64) * 0.2

    tensors = {n: drawn(*t.shape) for n, t in model.start.items() if n.startswith("llm/")}
    place = next(n for n in tensors if n.endswith("lora_A")).removesuffix(".lora_A")
    A, B = tensors[f"{place}.lora_A"], tensors[f"{place}.lora_B"]
    tensors |= {f"{place}.merged_A": drawn(3, A.shape[1]), f"{place}.merged_B": drawn(B.shape[0], 3)}
    model.load(tensors)
    model.save_adapters(tmp_path)
    ids = torch.randint(3, 30, (2, 7), generator=draw)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llms[name], dtype=torch.float64), tmp_path / "llm"
    ).eval()
    with torch.no_grad():
        want = plain(input_ids=ids).logits
        got = model.mllm.llm(inputs_embeds=model.mllm.llm.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)
    model.load({})
    base = AutoModelForCausalLM.from_pretrained(llms[name], dtype=torch.float64).eval()
    with torch.no_grad():
        again = model.mllm.llm(inputs_embeds=model.mllm.llm.get_input_embeddings()(ids)).logits
        torch.testing.assert_close(again, base(input_ids=ids).logits, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "lora"), ("gpt2", "vera"), ("qwen2", "lora")])
def test_the_merged_and_the_uniform_model_give_the_logits_of_what_was_trained(
    name, kind, llms, tmp_path
) -> None:
    """With a moved base and rsLoRA, or VeRA; layers that are not square, GPT-2's weights as (d_in, d_out)."""
    shape = {"kind": kind, "rank": 3} | ({"rslora": True} if kind == "lora" else {})
    model = made(llms[name], llm_lora=shape, encoder_lora=shape)
    model.load(trained(model, merged=kind == "lora", size=0.1), uneven(model) if kind == "lora" else None)
    examples = [model.prepare(s) for s in samples()]
    with torch.no_grad():
        want, features = model.mllm(examples).logits, model.features(examples)
    ids = torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = model.mllm.llm(input_ids=ids).logits
    model.save_adapters(tmp_path / "model")
    for group in ("llm", "encoder.image"):
        pairs = {n.removeprefix(f"{group}/"): t for n, t in model.frozen.items() if n.startswith(f"{group}/")}
        make_uniform(tmp_path / "model" / group, pairs)
    for rank in READERS.values():
        read = AutoModelForCausalLM.from_pretrained(llms[name]).eval()
        apply(read, tmp_path / "model" / "llm", rank)
        bare = made(llms[name], llm_lora=None)
        apply(bare.mllm.encoder.trunks["image"], tmp_path / "model" / "encoder.image", rank)
        with torch.no_grad():
            torch.testing.assert_close(read(input_ids=ids).logits, said, atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(features, bare.features(examples), strict=True):
            torch.testing.assert_close(theirs["image"], ours["image"], atol=1e-5, rtol=1e-5)
    model.save_merged(tmp_path / "whole", {"llm": torch.float32, "encoder": torch.float32})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "llm").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, said, atol=1e-5, rtol=1e-5)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "whole" / "llm")) == len(model.mllm.tokenizer)
    assert (tmp_path / "whole" / "llm" / "generation_config.json").is_file()
    again = load_model(Foundation(foundation=str(tmp_path / "whole")), ["image"], "cpu", 1)
    with torch.no_grad():
        logits = again.mllm([again.prepare(s) for s in samples()]).logits
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)


def test_a_merged_weight_is_rounded_once_to_the_base_s_own_precision(llms, tmp_path) -> None:
    model = made(llms["qwen2"], llm_lora={"rank": 3})
    model.load(trained(model, merged=True, size=0.1))
    place = next(iter(model.layers))
    own, s = model.tensors, model.scales["llm"]
    update = own[f"{place}.lora_B"] @ own[f"{place}.lora_A"]
    moved = model.layers[place].get_base_layer().weight + s * update
    model.save_merged(tmp_path, {"llm": torch.bfloat16, "encoder": torch.float16})
    state = load_file(tmp_path / "llm" / "model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    stored = state[f"{place.removeprefix('llm/')}.weight"]
    assert torch.allclose(stored.float(), moved, rtol=2**-8)
    assert stored_dtype(tmp_path / "llm") == torch.bfloat16
    assert stored_dtype(tmp_path / "encoder") == torch.float16


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_falls_and_answers_are_generated(name, llms) -> None:
    model = made(llms[name])
    examples = [model.prepare(s) for s in samples()]
    optimiser = torch.optim.Adam(model.begin(model.tensors), 2e-2)
    losses = []
    for _ in range(10):
        loss = model.loss(examples)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.rest()
    assert losses[-1] < 0.9 * losses[0]
    assert len(model.generate(examples, 4)) == 4


def test_part_of_the_attention_is_said(llms) -> None:
    model = made(llms["llama"], llm_lora={"rank": 2, "targets": ["q_proj", "v_proj"]})
    assert (
        "adapted in llm: q_proj ×2, v_proj ×2; k_proj ×2, o_proj ×2 of the attention are not adapted"
        in model.notes
    )


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["q_proj", "w_proj"], r"the LoRA target w_proj names no linear layer; llm has .*down_proj.*v_proj"),
        (["self_attn"], "the LoRA target self_attn names no linear layer"),
    ],
)
def test_every_target_names_a_layer(targets, says, llms) -> None:
    with pytest.raises(ExperimentError, match=says):
        made(llms["llama"], llm_lora={"rank": 2, "targets": targets})


def test_an_output_layer_that_is_tied_to_the_embeddings_is_no_target(llms, tmp_path) -> None:
    with pytest.raises(ExperimentError, match="lm_head of llm shares its weight with the input embeddings"):
        made(llms["gpt2"], llm_lora={"rank": 2, "targets": ["c_attn", "lm_head"]})
    assert "lm_head" in made(llms["llama"], llm_lora={"rank": 2, "targets": ["lm_head"]}).specs["llm"].names


def test_targets_before_a_model_is_seen_name_nothing() -> None:
    with pytest.raises(TypeError, match=r"before LoRA\.on has seen the model"):
        LoRA().peft()
