"""Families without a row in the table, and what is no multimodal model: found by name, or refused in one sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import is_torchvision_available

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.experiment.settings import Experiment
from fedloom.models.lora.layers import LoRA
from fedloom.models.native.families import FAMILIES as TABLE
from fedloom.models.native.load import load_native
from fedloom.models.native.trainable import NativeMLLM
from fedloom.models.settings import Foundation
from tests.models.native.conftest import modalities_of
from tests.models.native.test_families import samples
from tests.models.native.tiny_other_families import gemma3n
from tests.models.native.tiny_parts import TEXT

BY_NAME = {
    "janus": {
        "encoder.image": 48 // 2,
        "llm": 32 // 2,
        "projector": 4,
    },  # the aligner of generated pictures is left
    "mllama": {"encoder.image": 48 // 2, "llm": 32 // 2, "projector": 2},
    "audioflamingo3": {"encoder.audio": 16, "llm": 16, "projector": 4},
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_family_without_a_row_is_found_by_name_learns_and_trains_client_by_client(name, native) -> None:
    model = native(name)
    assert model.model.config.model_type not in TABLE
    assert not model.stackable
    counts: dict[str, int] = {}
    for tensor in model.tensors:
        counts[group_of(tensor)] = counts.get(group_of(tensor), 0) + 1
    assert counts == BY_NAME[name]
    batch = [model.prepare(s) for s in [*samples(modalities_of(name), 0, 2), *samples([], 1, 2)]]
    parameters = model.begin(model.tensors)
    optimiser = torch.optim.AdamW(parameters, 5e-3)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        assert all(p.grad is not None for p in parameters)
        optimiser.step()
        losses.append(float(loss.detach()))
    model.rest()
    assert losses[-1] < losses[0] - 0.03
    alone = [float(model.loss([e])) for e in batch]
    assert torch.allclose(model.losses(batch, range(4), 4), torch.tensor(alone), atol=1e-5)
    assert model.generate(batch, 3) == [model.generate([e], 3)[0] for e in batch]


CANNOT = {"gemma3n": "timm", "mistral3": "torchvision"}
"""Families that cannot be built, or not be read, with the packages here, and the package that is missing."""


@pytest.mark.skipif(is_torchvision_available(), reason="this environment has torchvision")
def test_a_family_that_cannot_be_built_here_is_listed_with_its_reason(checkpoint, tmp_path) -> None:
    with pytest.raises(ImportError, match=CANNOT["gemma3n"]):
        gemma3n(tmp_path)
    with pytest.raises(ExperimentError, match=r"(?i)the processor of .* cannot be loaded: .*torchvision"):
        load(checkpoint("mistral3"))


@pytest.mark.skipif(not is_torchvision_available(), reason="needs torchvision")
def test_with_torchvision_the_whole_processor_is_built(native) -> None:
    for name in ("qwen2_5_vl", "internvl", "llava_onevision"):
        assert native(name).reader.processor.video_processor is not None


def load(folder: Path | str, modalities: tuple[str, ...] = ("image",), **settings: object) -> NativeMLLM:
    return load_native(Foundation(native=str(folder), **settings), list(modalities), "cpu", 0)


def test_what_is_no_multimodal_model_is_one_sentence(checkpoint, tmp_path) -> None:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(vocab_size=50, **TEXT)).save_pretrained(tmp_path / "llm")
    small = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertModel(small).save_pretrained(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    wrong = {
        "llm": "is a language model of the family llama, which reads text only; name it as model.llm",
        "bert": "is of the family bert, which is no multimodal language model|reads text only",
        "empty": "is neither a folder nor a Hugging Face id of a model that transformers knows",
        "missing": "is neither a folder nor a Hugging Face id of a model that transformers knows",
    }
    for name, says in wrong.items():
        with pytest.raises(ExperimentError, match=says) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_processor_files_and_data_that_it_does_not_read_are_one_sentence(
    checkpoint, tmp_path
) -> None:
    shutil.copytree(checkpoint("llava"), tmp_path / "bare")
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / "bare" / file).unlink(missing_ok=True)
    with pytest.raises(ExperimentError, match=r"the processor of .*bare cannot be loaded") as caught:
        load(tmp_path / "bare")
    assert "\n" not in str(caught.value)
    with pytest.raises(ExperimentError, match=r"reads image and video, and the data has audio; drop audio"):
        load(checkpoint("llava"), ("audio", "image"))


def test_a_checkpoint_that_lacks_weights_is_refused_not_filled_at_random(checkpoint, tmp_path) -> None:
    shutil.copytree(checkpoint("llava"), tmp_path / "part")
    file = tmp_path / "part" / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "projector" not in n}, file, {"format": "pt"})
    with pytest.raises(
        ExperimentError, match=r"lacks 4 of its model's tensors, such as .*multi_modal_projector"
    ):
        load(tmp_path / "part")


def test_of_qwen_omni_the_thinker_is_loaded_with_its_weights(checkpoint, tmp_path) -> None:
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    thinker = checkpoint("qwen2_5_omni_thinker")
    shutil.copytree(thinker, tmp_path / "omni")
    config = json.loads((thinker / "config.json").read_text())
    whole = Qwen2_5OmniForConditionalGeneration(
        Qwen2_5OmniConfig(thinker_config=config, enable_audio_output=False)
    )
    whole.save_pretrained(tmp_path / "omni")
    model = load(tmp_path / "omni", ("image", "audio"))
    assert model.model.config.model_type == "qwen2_5_omni_thinker"
    frozen = {n: p for n, p in model.model.state_dict().items() if "lora_" not in n}
    kept = whole.thinker.state_dict()
    assert len(frozen) == len(kept)
    assert all(torch.equal(t, kept[n.replace(".base_layer", "")]) for n, t in frozen.items())


def test_settings_of_an_assembled_model_and_unknown_targets_are_refused(checkpoint) -> None:
    with pytest.raises(ExperimentError, match=r"model.native and model.llm name two models"):
        Experiment.parse({"method": "feda2-lora", "model": {"native": "some/vlm", "llm": "some/llm"}})
    with pytest.raises(ExperimentError, match=r"the LoRA targets nothing name no layer of llm"):
        load(checkpoint("llava"), llm_lora=LoRA(targets=("nothing",)))
    with pytest.raises(ExperimentError, match=r"the LoRA target nothing names no layer of encoder.image"):
        load(checkpoint("llava"), encoder_lora=LoRA(targets=("fc1", "nothing")))
    with pytest.raises(ExperimentError, match=r"rank 64 is above the size"):
        load(checkpoint("llava"), encoder_lora=LoRA(rank=64))
