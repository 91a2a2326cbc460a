"""A quantised base: rounds, cohorts, resumption and merged changes on it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.models.classifier.load import load_classifier
from fedloom.models.native.load import load_native
from fedloom.models.quantize import Quantization, is_quantised
from fedloom.models.settings import Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.test_weights import made, samples, write_llm

MODES = {
    "8": {"quantize": "8bit"},
    "4": {"quantize": "4bit"},
    "8-bitsandbytes": {"quantize": "8bit", "quantizer": "bitsandbytes"},
    "4-torchao": {"quantize": "4bit", "quantizer": "torchao"},
}
BOUND = {"8": 0.05, "8-bitsandbytes": 0.05, "4": 0.6, "4-torchao": 0.6}
IMAGES = {"clients": {"image": 2}, "train": 4, "test": 2}


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llm(tmp_path_factory.mktemp("quantised") / "llm", torch.bfloat16)


@pytest.mark.parametrize("mode", MODES)
def test_the_llm_is_quantised_and_says_so(mode, llm) -> None:
    whole, model = made(llm), made(llm, **MODES[mode])
    names = {n for n, m in model.mllm.llm.named_modules() if is_quantised(m) and "lora" not in n}
    leaves = {n.removesuffix(".base_layer").rsplit(".", 1)[-1] for n in names}
    assert leaves >= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert "lm_head" not in leaves
    assert not any(is_quantised(m) for m in model.mllm.encoder.modules())
    [note] = [n for n in model.notes if n.startswith("model.llm: 14 layers with")]
    library = MODES[mode].get("quantizer") or ("torchao" if mode == "8" else "bitsandbytes")
    assert f" by {library}, unpacked for each product on the CPU" in note
    examples = [model.prepare(s) for s in samples()]
    loss, other = float(whole.loss(examples)), float(model.loss(examples))
    assert loss != other
    assert other == pytest.approx(loss, rel=BOUND[mode])


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("mode", MODES)
def test_a_cohort_trains_on_a_quantised_base_as_one_after_another(mode, precision, llm) -> None:
    model = made(llm, precision, **MODES[mode], encoder_lora=None)
    examples = [model.prepare(s) for s in samples()]
    training = Training(schedule="simultaneous", batch_size=2, projector="both", lr=0.01)
    jobs = [
        LocalJob(c, e, {}, frozenset(model.tensors), training, 0, 1, 1, {})
        for c, e in (("a", examples[:2]), ("b", examples[2:]))
    ]
    alone = [train_one(model, j) for j in jobs]
    again = train_one(model, jobs[0])
    assert all(torch.equal(t, alone[0].tensors[n]) for n, t in again.tensors.items())
    for one, other in zip(alone, train_cohort(model, jobs), strict=True):
        assert all(t.any() for n, t in one.tensors.items() if n.endswith("_B"))
        moved = torch.cat([(t - model.start[n]).flatten() for n, t in sorted(one.tensors.items())])
        twin = torch.cat([(t - model.start[n]).flatten() for n, t in sorted(other.tensors.items())])
        assert float(torch.nn.functional.cosine_similarity(moved, twin, dim=0)) > 0.98


@pytest.mark.parametrize("mode", MODES)
def test_merged_changes_stand_beside_a_quantised_weight(mode, llm) -> None:
    model = made(llm, **MODES[mode], encoder_lora=None, llm_lora={"rank": 2, "alpha": 6})
    place, layer = next((p, m) for p, m in model.layers.items() if p.endswith("layers.0.self_attn.q_proj"))
    draw = torch.Generator().manual_seed(1)
    x, base = torch.randn(5, 64, generator=draw), layer.get_base_layer()
    before = base(x)
    for width in (3, 40):  # beyond 32 the dense product is smaller than its factors
        A, B = torch.randn(width, 64, generator=draw), torch.randn(64, width, generator=draw) * 0.1
        model.load({f"{place}.merged_A": A, f"{place}.merged_B": B})
        torch.testing.assert_close(base(x) - before, x @ (3 * B @ A).T, atol=1e-3, rtol=1e-3)
        assert torch.equal(model.exported()[f"{place}.merged_A"], A)
    model.load({})
    assert torch.equal(base(x), before)


def experiment(llm: Path, method: str, mode: str, quick: Any, **more: Any) -> Experiment:
    model = {
        "llm": str(llm),
        "encoder": str(Path(made.__globals__["SHIPPED"]) / "tiny-mllm" / "encoder"),
        "llm_lora": {"rank": 2},
        "encoder_lora": {"rank": 2},
        **MODES[mode],
    }
    return quick(method, rounds=2, data=IMAGES, model=model, training={"batch_size": 2, "lr": 0.01}, **more)


def same_when_resumed(settings: Experiment, folder: Path) -> Any:
    """The result of a whole run, after one that was killed in round 2 and resumed gave the same bytes."""
    whole = run(settings, folder / "whole")

    def stop(told: Any) -> None:
        if told.client is not None and told.round == 2:
            raise Killed

    with pytest.raises(Killed):
        run(settings, folder / "cut", observe=stop)
    run(settings, folder / "cut", resume=True)
    trees = [
        {p.relative_to(folder / n): p.read_bytes() for p in (folder / n / "model").rglob("*") if p.is_file()}
        for n in ("whole", "cut")
    ]
    for tree in trees:
        assert any("safetensors" in str(p) for p in tree)
    strip = [{str(p).split("/", 1)[1]: b for p, b in tree.items()} for tree in trees]
    assert strip[0] == strip[1]
    lines = [(folder / n / "metrics.jsonl").read_bytes() for n in ("whole", "cut")]
    assert lines[0] == lines[1]
    return whole


@pytest.mark.parametrize(
    ("method", "mode"),
    [("feda2-lora", "8"), ("flora", "4"), ("fedavg-lora", "8-bitsandbytes"), ("fedex-lora", "4-torchao")],
)
def test_a_run_on_a_quantised_base_is_resumed_in_the_same_bytes(
    method, mode, llm, quick, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    result = same_when_resumed(experiment(llm, method, mode, quick), tmp_path)
    assert result.summary["status"] == "complete"
    assert any("layers with" in n for n in result.summary["notes"])
    model = load(tmp_path / "whole")
    for place, layer in model.layers.items():
        assert is_quantised(layer.get_base_layer()) == (group_of(place) == "llm")
    assert bool(model.merged) == (method in ("flora", "fedex-lora"))


@pytest.mark.parametrize("mode", ["8", "4"])
def test_a_native_models_llm_is_quantised_and_its_encoder_is_not(mode, native_llava) -> None:
    settings = Foundation(
        native=str(native_llava), llm_lora={"rank": 2}, encoder_lora={"rank": 2}, **MODES[mode]
    )
    model = load_native(settings, ["image"], "cpu", 0)
    names = {n for n, m in model.root.named_modules() if is_quantised(m) and "lora" not in n}
    assert names
    assert all("language_model" in n for n in names)
    examples = [model.prepare(s) for s in samples(2)]
    training = Training(schedule="simultaneous", batch_size=2, projector="both", lr=0.01)
    job = LocalJob("a", examples, {}, frozenset(model.tensors), training, 0, 1, 1, {})
    one, two = train_one(model, job), train_one(model, job)
    assert all(torch.equal(t, two.tensors[n]) for n, t in one.tensors.items())
    changed = {group_of(n) for n, t in one.tensors.items() if not torch.equal(t, model.start[n])}
    assert changed == {"llm", "encoder.image", "projector"}


def test_a_quantised_native_run_is_resumed_in_the_same_bytes(
    native_llava, silo, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    settings = Experiment.parse(
        {
            "method": "feda2-lora",
            "rounds": 2,
            "data": {"source": "folder", "path": str(silo)},
            "model": {"native": str(native_llava), "llm_lora": {"rank": 2}, "quantize": "4bit"},
            "training": {"batch_size": 2, "lr": 0.01},
            "evaluation": {"controls": False, "samples": 1, "max_new_tokens": 3},
        }
    )
    assert same_when_resumed(settings, tmp_path).summary["status"] == "complete"


@pytest.mark.parametrize("mode", MODES)
def test_a_classifiers_body_is_quantised_and_its_head_is_not(mode) -> None:
    labels = ["no", "maybe", "yes"]
    plain = load_classifier(Foundation(), labels, "cpu", 0)
    model = load_classifier(Foundation(**MODES[mode]), labels, "cpu", 0)
    assert all(is_quantised(layer.get_base_layer()) for layer in model.layers.values())
    assert not any(is_quantised(m) for part in model._head.values() for m in part.modules())
    assert model.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(t, plain.start[n]) for n, t in model.start.items())


def test_a_library_that_is_missing_or_does_not_know_the_device_is_one_sentence(monkeypatch) -> None:
    with pytest.raises(ExperimentError, match="bitsandbytes does not run on mps"):
        Quantization.chosen("8bit", "bitsandbytes", torch.device("mps"))
    assert Quantization.chosen("4bit", "auto", torch.device("mps")).library == "torchao"
    monkeypatch.setattr("fedloom.models.quantize.find_spec", lambda name: None)
    with pytest.raises(
        ExperimentError, match=r"needs torchao, which is not installed: .*fedloom\[quantize\]"
    ):
        Quantization.chosen("8bit", "auto", torch.device("cpu"))


def test_a_quantizer_without_bits_and_a_quantised_clip_are_refused(quick) -> None:
    with pytest.raises(ExperimentError, match=r"model\.quantizer"):
        quick(model={"quantizer": "torchao"})
    with pytest.raises(ExperimentError, match=r"model\.quantize"):
        quick("promptfl", model={"quantize": "8bit"})


def test_a_checkpoint_that_is_quantised_already_is_loaded_as_it_is(llm, tmp_path) -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        llm, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )
    model.save_pretrained(tmp_path)
    for file in llm.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ours, theirs = made(tmp_path, "auto"), made(llm, "auto", quantize="4bit")
    examples = [ours.prepare(s) for s in samples()]
    assert float(ours.loss(examples)) == float(theirs.loss(examples))
    assert "model.llm: 14 layers are quantised in the checkpoint" in ours.notes
    with pytest.raises(
        ExperimentError, match=r"quantised already \(bitsandbytes\); leave model\.quantize out"
    ):
        made(tmp_path, quantize="8bit")
    described = json.loads((tmp_path / "config.json").read_text())
    described["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ExperimentError, match=r"^model\.llm: .* cannot be loaded: "):
        made(tmp_path)


@pytest.fixture(scope="module")
def native_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.native.tiny_families import FAMILIES

    folder = tmp_path_factory.mktemp("llava")
    FAMILIES["llava"](folder)
    return folder


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    """Two clients with four questions about small pictures each."""
    from PIL import Image

    for client in ("one", "two"):
        place = tmp_path / "silos" / client
        place.mkdir(parents=True)
        lines = []
        for i in range(4):
            Image.new("RGB", (40 + 4 * i, 48), ((210, 40, 40), (40, 60, 200))[i % 2]).save(place / f"{i}.png")
            lines.append(
                json.dumps({"question": f"{i}?", "answer": ("red", "blue")[i % 2], "image": f"{i}.png"})
            )
        (place / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "silos"
