"""Every family with a row in the table: what is trained, that it learns, cohorts, and what plain PEFT loads."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Sample
from fedloom.models.lora.uniform import make_uniform
from fedloom.models.native.collate import collate
from fedloom.models.native.families import FAMILIES as TABLE
from fedloom.models.native.load import load_native
from fedloom.models.native.trainable import NativeMLLM
from fedloom.models.settings import Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from fedloom.tasks.usage import native_code
from tests.models.native.conftest import modalities_of
from tests.models.native.tiny_families import FAMILIES
from tests.models.readers import READERS, apply, trained, uneven

every_family = pytest.mark.parametrize("name", FAMILIES)
LAYERS = {  # adapted layers of each group, and tensors of the projector
    "llava": {"encoder.image": 8, "llm": 8, "projector": 4},  # of three blocks, two are read
    "llava_next": {"encoder.image": 8, "llm": 8, "projector": 4},
    "llava_next_video": {"encoder.image": 8, "llm": 8, "projector": 4},
    "llava_onevision": {"encoder.image": 12, "llm": 8, "projector": 4},
    "qwen2_vl": {"encoder.image": 4, "llm": 8, "projector": 6},
    "qwen2_5_vl": {"encoder.image": 4, "llm": 8, "projector": 5},
    "qwen3_vl": {"encoder.image": 4, "llm": 8, "projector": 12},  # with the deepstack merger
    "idefics3": {"encoder.image": 12, "llm": 8, "projector": 1},
    "smolvlm": {"encoder.image": 12, "llm": 8, "projector": 1},
    "paligemma": {"encoder.image": 12, "llm": 8, "projector": 2},
    "gemma3": {"encoder.image": 12, "llm": 8, "projector": 2},  # a bare parameter and a norm
    "gemma4": {
        "encoder.image": 8,
        "encoder.audio": 8,
        "llm": 8,
        "projector.image": 1,
        "projector.audio": 1,
    },
    "internvl": {"encoder.image": 12, "llm": 8, "projector": 6},
    "qwen2_audio": {"encoder.audio": 8, "llm": 8, "projector": 2},
    "voxtral": {"encoder.audio": 8, "llm": 8, "projector": 2},
    "qwen2_5_omni_thinker": {
        "encoder.image": 8,
        "encoder.audio": 8,
        "llm": 8,
        "projector.image": 5,
        "projector.audio": 2,
    },
}


def samples(held: list[str], client: int, count: int = 4) -> list[Sample]:
    """Pictures and sounds of several sizes; with several modalities, some samples lack one."""
    rng = torch_stream(client, "samples")
    made = []
    for i in range(count):
        media = {}
        if "image" in held and (len(held) < 2 or i != 1):
            size = (3, 40 + 9 * i + 5 * client, 60)
            media["image"] = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)
        if "audio" in held and (len(held) < 2 or i != 2):
            media["audio"] = torch.randn(12_000 + 900 * i + 300 * client, generator=rng) * 0.1
        made.append(Sample(f"{client}-{i}", media, "what is it" + "?" * (i + 1), ("blue", "a dog")[i % 2]))
    return made


def stirred(model: NativeMLLM, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor moved at random, so that no adapter is still without effect."""
    rng = torch_stream(seed, "stirred")
    return {n: t + 0.05 * torch.randn(t.shape, generator=rng) for n, t in model.start.items()}


def test_every_row_of_the_table_is_built_here() -> None:
    assert set(FAMILIES) == set(LAYERS)
    assert set(TABLE) - set(FAMILIES) == {"qwen2_5_omni"}  # its thinker is loaded, which has a row of its own


def test_a_family_whose_rows_mix_with_padding_says_that_it_does_not_share_a_batch(native) -> None:
    assert not native("gemma4").stackable


@every_family
def test_the_parts_of_the_table_are_adapted_and_a_fixed_batch_is_learned(name, native) -> None:
    model = native(name)
    counts: dict[str, int] = {}
    for tensor in model.tensors:
        group = group_of(tensor)
        counts[group] = counts.get(group, 0) + (not tensor.endswith("lora_B"))
    assert counts == LAYERS[name]
    held = modalities_of(name)
    batch = [model.prepare(s) for s in samples(held, 0)]
    parameters = model.begin(model.tensors)
    optimiser = torch.optim.AdamW(parameters, 5e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        if not losses:
            assert all(p.grad is not None for p in parameters)
        optimiser.step()
        losses.append(float(loss.detach()))
    model.rest()
    assert losses[-1] < losses[0] - 0.03
    alone = [float(model.loss([e])) for e in batch]  # no sample's loss depends on those beside it
    together = model.losses(batch, range(len(batch)), len(batch))
    assert torch.allclose(together, torch.tensor(alone), atol=1e-5)
    one = [model.generate([e], 4)[0] for e in batch]
    assert model.generate(batch, 4) == one


@every_family
def test_a_cohort_ends_where_its_clients_end_one_after_another(name, native) -> None:
    """Two clients with all modalities and two with text alone, in one batch."""
    held = ["image"] if name == "gemma4" else modalities_of(name)  # with its audio, it does not share a batch
    model = native(name, held, dropout=0.1)
    assert model.stackable
    jobs = {}
    for k, holds in enumerate([held, held, [], []]):
        groups = model.groups(holds)
        jobs[f"c{k}"] = LocalJob(
            client=f"c{k}",
            examples=[model.prepare(s) for s in samples(holds, k, 3)],
            start=stirred(model, k),
            names=frozenset(n for n in model.tensors if group_of(n) in groups),
            training=Training(epochs=1, batch_size=2, lr=0.05, optimizer="sgd", schedule="simultaneous"),
            seed=0,
            round=1,
            rounds=2,
            ratios={},
        )
    alone = {c: train_one(model, job) for c, job in jobs.items()}
    moved = dict.fromkeys(map(group_of, model.tensors), 0.0)
    for client, outcome in zip(jobs, train_cohort(model, list(jobs.values())), strict=True):
        assert outcome.loss == pytest.approx(alone[client].loss, abs=1e-5)
        assert outcome.tensors.keys() == alone[client].tensors.keys()
        for n, tensor in outcome.tensors.items():
            assert torch.allclose(tensor, alone[client].tensors[n], atol=1e-5), n
            step = float((tensor - jobs[client].start[n]).abs().max())
            moved[group_of(n)] = max(moved[group_of(n)], step)
    assert min(moved.values()) > 5e-5, moved  # otherwise a wrong owner of a row would not be seen


def plain(folder: Path, adapters: Path) -> torch.nn.Module:
    """The checkpoint with the saved adapters by transformers and PEFT alone, as docs/native-models.md tells users."""
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    listed = json.loads((adapters / "fedloom.json").read_text())
    for group in listed["projectors"]:
        kept = load_file(adapters / f"{group}.safetensors")
        assert not model.load_state_dict(kept, strict=False).unexpected_keys
    names = [group.replace(".", "_") for group in listed["adapters"]]
    first, *others = zip(listed["adapters"], names, strict=True)
    model = PeftModel.from_pretrained(model, adapters / first[0], adapter_name=first[1])
    for group, name in others:
        model.load_adapter(adapters / group, adapter_name=name)
    model.base_model.set_adapter(names)
    return model.eval()


@every_family
def test_every_form_on_disk_gives_the_logits_of_what_was_trained(name, native, checkpoint, tmp_path) -> None:
    """rsLoRA on a base that moved: adapters in plain PEFT, uniform ones by a plain reader, the whole model merged."""
    model = native(name, rslora=True)
    model.load(trained(model, merged=True), uneven(model))
    model.save_adapters(tmp_path / "model")
    again = native(name, rslora=True)
    again.load(again.read_adapters(tmp_path / "model"))
    batch = [model.prepare(s) for s in samples(modalities_of(name), 0)]
    inputs = collate(batch, model.reader.pad, answers=True, answer_type=model.family.answer_type).inputs
    other = plain(checkpoint(name), tmp_path / "model")
    read = AutoModelForMultimodalLM.from_pretrained(checkpoint(name)).eval()
    listed = json.loads((tmp_path / "model" / "fedloom.json").read_text())
    for group in listed["projectors"]:
        read.load_state_dict(load_file(tmp_path / "model" / f"{group}.safetensors"), strict=False)
    for group in listed["adapters"]:
        make_uniform(tmp_path / "model" / group, {})
        apply(read, tmp_path / "model" / group, READERS["the configuration's rank"])
    with torch.no_grad():
        logits = model.model(**inputs).logits
        assert torch.allclose(again.model(**inputs).logits, logits, atol=1e-5)
        assert torch.allclose(other(**inputs).logits, logits, atol=1e-4)
        assert torch.allclose(read(**inputs).logits, logits, atol=1e-4)
        again.load({})
        assert not torch.allclose(again.model(**inputs).logits, logits, atol=1e-3)
    model.save_merged(tmp_path / "whole", {"": torch.float32})
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        assert torch.allclose(whole(**inputs).logits, logits, atol=1e-4)
    fresh = load_native(Foundation(native=str(tmp_path / "whole")), modalities_of(name), "cpu", 0)
    assert torch.equal(fresh.prepare(samples(modalities_of(name), 0)[0]).ids, batch[0].ids)


@pytest.mark.parametrize("name", ["llava", "gemma4"])
def test_the_readmes_code_loads_adapters_and_projectors(
    name, native, checkpoint, tmp_path, monkeypatch
) -> None:
    model = native(name)
    model.load(trained(model))
    model.save_adapters(tmp_path)
    (tmp_path / "base").symlink_to(checkpoint(name))
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec(native_code("base", tmp_path), variables)
    inputs = collate(
        [model.prepare(s) for s in samples(modalities_of(name), 0)], model.reader.pad, answers=True
    ).inputs
    with torch.no_grad():
        logits = variables["model"].eval()(**inputs).logits
        assert torch.allclose(logits, model.model(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma3", "qwen2_5_vl", "qwen2_audio"])
def test_a_bfloat16_model_trains_float32_tensors(name, native, checkpoint) -> None:
    settings = Foundation(native=str(checkpoint(name)))
    model = load_native(settings, modalities_of(name), "cpu", 0, precision="bfloat16")
    full = native(name)
    assert {p.dtype for p in model.tensors.values()} == {torch.float32}
    own = {id(p) for p in model.tensors.values()}
    assert {p.dtype for p in model.root.parameters() if id(p) not in own} == {torch.bfloat16}
    batch = [model.prepare(s) for s in samples(modalities_of(name), 0)]
    parameters = model.begin(model.tensors)
    loss = model.loss(batch)
    loss.backward()
    assert all(p.grad is not None for p in parameters)
    assert float(loss.detach()) == pytest.approx(float(full.loss(batch)), abs=0.1)
