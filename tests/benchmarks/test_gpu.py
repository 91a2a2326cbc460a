"""The GPU rows at a toy size on the CPU, and what `full` would be. Nothing here looks at the time that it took."""

import json

import pytest
import torch

from benchmarks import gpu, gpu_proof, gpu_qwen
from benchmarks.random_weights import Work, quantize

CPU = torch.device("cpu")
TOY = Work(batch=2, positions=28, answer=4, steps=2)


@pytest.mark.parametrize("quantize", ["none", "4bit"])
@pytest.mark.parametrize("model", gpu.MODELS)
def test_a_cohort_gives_what_one_client_after_another_gives(model, quantize) -> None:
    if quantize == "4bit":
        pytest.importorskip("bitsandbytes")
    figures = gpu.measure(gpu.Case(model, quantize=quantize, clients=2, work=TOY), CPU, 1)
    assert figures["difference"] < 1e-3
    assert figures["operations"] > 1e6
    assert "positions/s" in gpu.row(figures, TOY).note


def test_the_full_size_needs_a_gpu() -> None:
    assert gpu.main(["--size", "full", "--device", "cpu"]) == []


@pytest.mark.parametrize("model", gpu.MODELS)
def test_the_same_weights_are_drawn_again_and_none_stay_on_the_meta_device(model) -> None:
    one, two = (gpu.MODELS[model].build("tiny", CPU, torch.bfloat16, TOY) for _ in range(2))
    for a, b in zip(one.root.parameters(), two.root.parameters(), strict=True):
        assert a.device.type == "cpu"
        assert torch.equal(a, b)
    assert all(b.device.type == "cpu" for b in one.root.buffers())


def test_the_native_model_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = gpu_qwen.Qwen2_5_VLForConditionalGeneration(gpu_qwen.config("full"))
    assert sum(p.numel() for p in model.parameters()) == 3_754_622_976


def test_the_output_layer_stays_tied_to_the_embeddings() -> None:
    model = gpu_qwen.foundation("tiny", CPU, torch.float32, TOY).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_four_bits_replace_the_llms_frozen_layers_and_nothing_else() -> None:
    pytest.importorskip("bitsandbytes")
    model = gpu_qwen.foundation("tiny", CPU, torch.float32, TOY)
    before = sum(p.numel() * p.element_size() for p in model.root.parameters())
    llm = model.model.get_submodule(model.family.llm)
    assert quantize(llm, torch.float32) == 3 * 7
    kinds = {name: type(module).__name__ for name, module in model.root.named_modules()}
    assert {n for n, k in kinds.items() if k == "Linear4bit"} == {
        n
        for n in kinds
        if ".language_model." in n and n.endswith((".base_layer", "gate_proj", "up_proj", "down_proj"))
    }
    assert kinds["lm_head"] == "Linear"
    assert sum(p.numel() * p.element_size() for p in model.root.parameters()) < 0.5 * before


def test_the_proof_lists_every_case_and_what_failed(tmp_path, monkeypatch, capsys) -> None:
    def one(model, bits, words, folder, seconds):
        named = {"model": model, "quantize": bits}
        if bits == "4bit":
            return named | {"error": "out of memory"}
        steps = {"step": 0.5, "rival_step": 1.0, "share": 0.4, "rival_share": 0.2, "difference": 1e-3}
        sizes = {"size": "full", "dtype": "bfloat16", "clients": 10, "peak": 2**30, "rival_peak": 2**31}
        return named | steps | sizes

    monkeypatch.setattr(gpu_proof, "run_case", one)
    gpu_proof.main(["--out", str(tmp_path)])
    assert len(json.loads((tmp_path / "gpu.json").read_text())["cases"]) == 4
    text = (tmp_path / "gpu.md").read_text()
    assert (
        "| vicuna-imagebind full | bfloat16 | 10 | 0.5000 | 1.0000 | 2.00 | 40% | 20% | 1.00 | 2.00 | 1.0e-03 |"
        in text
    )
    assert text.count("not measured: out of memory") == 2
    assert "vicuna-imagebind, 4bit: out of memory" in capsys.readouterr().out


def test_a_case_without_time_is_not_begun(tmp_path) -> None:
    words = ("vicuna-imagebind", "none", [], tmp_path, 0.0)
    assert gpu_proof.run_case(*words) == {"model": words[0], "quantize": "none", "error": "no time left"}
