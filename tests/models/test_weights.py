"""Frozen weights in the dtype in which they are used: mapped files, mixed dtypes, exact trained tensors, refusals."""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.mllm.load import load_model
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.native.load import load_native
from fedloom.models.settings import Foundation
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from fedloom.models.weights import Weights
from tests.models.native.tiny_families import FAMILIES

SHIPPED = Path(str(files("fedloom.models"))) / "shipped"
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def write_llm(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A random Llama whose shards are of its own dtype."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tiny-mllm" / "llm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **SIZES))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save_pretrained(folder)
    return folder


def made(llm: Path, precision: Any = "float32", **settings: Any) -> AdaptedMLLM:
    fields = {
        "encoder": str(SHIPPED / "tiny-mllm" / "encoder"),
        "llm": str(llm),
        "llm_lora": {"rank": 2},
        "encoder_lora": {"rank": 2},
    }
    return load_model(Foundation(**{**fields, **settings}), ["image"], "cpu", 0, precision=precision)


def samples(count: int = 4) -> list[Sample]:
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (count, 3, 48, 48), generator=draw, dtype=torch.uint8)
    words = ("red", "two", "a cube", "blue")
    return [Sample(f"s{i}", {"image": p}, "what colour is it?", words[i % 4]) for i, p in enumerate(pictures)]


@pytest.fixture(scope="module")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("dtypes")
    return {n: write_llm(root / n, getattr(torch, n)) for n in ("float32", "bfloat16", "float16")}


def frozen_dtypes(model: AdaptedMLLM, module: torch.nn.Module) -> set[torch.dtype]:
    own = {id(t) for t in model.tensors.values()}
    return {p.dtype for p in module.parameters() if id(p) not in own}


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_frozen_weights_have_the_wanted_dtype_and_trained_tensors_are_float32(
    stored, precision, llms
) -> None:
    model = made(llms[stored], precision)
    own = torch.float32 if stored == "float32" else torch.bfloat16
    expected = own if precision == "auto" else getattr(torch, precision)
    assert frozen_dtypes(model, model.mllm.llm) == {expected} == {model.precision}
    encoder = load_file(SHIPPED / "tiny-mllm" / "encoder" / "model.safetensors")
    assert {t.dtype for t in encoder.values()} == {torch.float16}
    assert frozen_dtypes(model, model.mllm.encoder) == {torch.bfloat16 if precision == "auto" else expected}
    assert {t.dtype for t in model.tensors.values()} == {torch.float32}
    examples = [model.prepare(s) for s in samples()]
    assert torch.isfinite(model.loss(examples))
    half = [n for n in model.notes if "8 of the 11 binary digits" in n and n.startswith("model.llm")]
    assert len(half) == (stored == "float16" and precision == "auto")


def test_an_encoder_in_float32_computes_in_float32_before_a_bfloat16_llm(llms) -> None:
    full, mixed = made(llms["bfloat16"]), made(llms["bfloat16"], "auto")
    mixed.mllm.encoder.load_state_dict(full.mllm.encoder.state_dict(), assign=True)
    examples = [full.prepare(s) for s in samples(2)]
    ours, theirs = (m.features(examples) for m in (mixed, full))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["image"], other["image"])
    assert mixed.precision == torch.bfloat16


def test_a_float32_run_takes_every_digit_of_a_checkpoint_that_calls_itself_half(tmp_path) -> None:
    folder = write_llm(tmp_path / "llm")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"float16"'))
    model = made(folder)
    stored = {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}
    assert torch.equal(model.mllm.llm.get_input_embeddings().weight, stored["model.embed_tokens.weight"])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_weights_of_the_wanted_dtype_stay_in_the_file_which_a_merge_leaves_alone(precision, tmp_path) -> None:
    folder = write_llm(tmp_path / "llm", torch.bfloat16)
    before = {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.safetensors")}
    model = made(folder, precision)
    places = [
        line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line
    ]
    spans = [tuple(int(x, 16) for x in place[0].split("-")) for place in places]
    own = {id(t) for t in model.tensors.values()}
    for name, parameter in model.mllm.llm.named_parameters():
        if id(parameter) not in own:
            assert any(a <= parameter.data_ptr() < b for a, b in spans), name
    place, layer = next(iter(model.layers.items()))
    weight = layer.get_base_layer().weight
    model.load(
        {
            f"{place}.merged_A": torch.ones(1, weight.shape[1]),
            f"{place}.merged_B": torch.ones(weight.shape[0], 1),
        }
    )
    with torch.no_grad():
        weight.add_(1.0)  # written to a private copy of the page
    assert {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in before} == before


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_a_classifiers_head_keeps_every_digit(precision, tmp_path) -> None:
    labels = ["no", "maybe", "yes"]
    model, tokenizer = load_checkpoint(SHIPPED / "tiny-roberta", labels, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_checkpoint(tmp_path, labels, 0, Weights(precision=precision))
    stored = load_file(tmp_path / "model.safetensors")
    body = {p.dtype for p in getattr(again, again.base_model_prefix).parameters()}
    assert body == {torch.bfloat16 if precision == "bfloat16" else torch.float32}
    heads = {n: p for n, p in again.named_parameters() if not n.startswith(again.base_model_prefix)}
    assert heads
    assert all(torch.equal(p, stored[n]) for n, p in heads.items())


def test_a_vera_pair_is_exact_and_shared_on_a_bfloat16_base(llms) -> None:
    lora = {"llm_lora": {"kind": "vera", "rank": 4}, "encoder_lora": None}
    full, half = made(llms["float32"], **lora), made(llms["float32"], "bfloat16", **lora)
    for name, tensor in full.frozen.items():
        assert torch.equal(half.frozen[name], tensor), name
    for name, start in full.start.items():
        assert torch.equal(half.start[name], start), name
    layers = list(half.layers.values())
    assert len({layer.vera_A["default"].data_ptr() for layer in layers}) == 1


@pytest.mark.parametrize("device_map", ["auto", "balanced"])
def test_a_model_cannot_be_spread_over_one_device(device_map, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ExperimentError, match=r"over several GPUs, and this machine has 1; leave it out$"):
        Weights.of(Foundation(), "auto", "float32", device_map)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ExperimentError, match=r"several GPUs, and engine\.device is cpu; leave it out$"):
        Weights.of(Foundation(), "cpu", "float32", device_map)


def test_a_model_that_the_gpus_cannot_hold_is_refused() -> None:
    weights = Weights(device_map="auto")
    weights._note_devices("model.llm", {"model.layers.0": 0, "model.layers.1": 1, "lm_head": 1})
    assert weights.notes == ["model.llm is spread over 2 devices; clients train one after another"]
    with pytest.raises(ExperimentError, match="does not fit on the GPUs, and a part of it would lie on cpu"):
        weights._note_devices("model.llm", {"model.layers.0": 0, "model.layers.1": "cpu"})


def test_an_llm_behind_accelerates_hooks_trains_alike(llms) -> None:
    from accelerate import dispatch_model

    plain, hooked = made(llms["float32"]), made(llms["float32"])
    base = hooked.mllm.llm.get_base_model()
    parts = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "cpu",
        "model.norm": "cpu",
    }
    parts |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(base, parts, main_device="cpu", force_hooks=True)
    assert any(hasattr(m, "_hf_hook") for m in base.modules())
    training = Training(batch_size=2, lr=0.01, tau=0.5)
    results = []
    for model in (plain, hooked):
        examples = [model.prepare(s) for s in samples()]
        job = LocalJob("a", examples, {}, frozenset(model.tensors), training, 0, 1, 1, {})
        results.append(train_one(model, job).tensors)
    assert all(torch.equal(t, results[1][n]) for n, t in results[0].items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_merged_changes_keep_their_digits_and_leave_no_trace(precision, llms) -> None:
    model = made(llms["float32"], precision, llm_lora={"rank": 2, "alpha": 6}, encoder_lora=None)
    place, layer = next((p, m) for p, m in model.layers.items() if p.endswith("layers.1.self_attn.q_proj"))
    draw = torch.Generator().manual_seed(1)
    A, B = torch.randn(3, 64, generator=draw), torch.randn(64, 3, generator=draw) * 1e-4
    x = torch.randn(5, 64, generator=draw)
    base = layer.get_base_layer()
    weight, before = base.weight.detach().clone(), base(x.to(base.weight.dtype)).float()
    model.load({f"{place}.merged_A": A, f"{place}.merged_B": B})
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        change = base(x.to(base.weight.dtype)).float() - before
    if precision == "float32":
        torch.testing.assert_close(base.weight, weight + 3 * B @ A)
        torch.testing.assert_close(change, x @ (3 * B @ A).T, atol=1e-5, rtol=1e-2)
    else:
        assert torch.equal(base.weight, weight)
        wide = {f"{place}.merged_A": A, f"{place}.merged_B": B * 1e4}
        model.load(wide)
        with torch.autocast("cpu", torch.bfloat16):
            change = base(x.bfloat16()).float() - before
        expected = x @ (3e4 * B @ A).T
        assert float((change - expected).norm() / expected.norm()) < 0.02
    model.load({})
    assert torch.equal(base.weight, weight)
    assert torch.equal(base(x.to(base.weight.dtype)).float(), before)
    assert not model._changes._originals
    assert not base._forward_hooks


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_an_llm_that_lacks_weights_is_refused(precision, tmp_path) -> None:
    folder = write_llm(tmp_path / "llm")
    for file in folder.glob("*.safetensors"):
        save_file({"other": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(ExperimentError, match=r"lacks 21 of its model's tensors, such as lm_head\.weight"):
        made(folder, precision)


@pytest.mark.parametrize(("name", "modality"), [("llava", "image"), ("gemma3", "image")])
def test_a_native_models_projector_keeps_every_digit(name, modality, tmp_path) -> None:
    FAMILIES[name](tmp_path)
    settings = Foundation(native=str(tmp_path), llm_lora=None, encoder_lora={"rank": 2})
    model = load_native(settings, [modality], "cpu", 0, precision="bfloat16")
    stored = {n: t for f in tmp_path.glob("*.safetensors") for n, t in load_file(f).items()}
    projector = {n: t for n, t in model.start.items() if n.startswith("projector/")}
    rounded = {t.bfloat16().float().flatten()[0].item() for t in stored.values()}
    assert projector
    for start in projector.values():
        assert any(t.shape == start.shape and torch.equal(t.float(), start) for t in stored.values())
    assert any(t.flatten()[0].item() not in rounded for t in projector.values())
    assert model.precision == torch.bfloat16
