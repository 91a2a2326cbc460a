"""The setting that takes a checkpoint, by its configuration; models that fit what the data hold."""

import json
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.models.known_models import kind_of, suitable


@pytest.mark.parametrize(
    ("model_type", "architecture", "kind"),
    [
        ("llama", "LlamaForCausalLM", "llm"),
        ("gpt2", "GPT2LMHeadModel", "llm"),
        ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "native"),
        ("smolvlm", "SmolVLMForConditionalGeneration", "native"),
        ("roberta", "RobertaForMaskedLM", "classifier"),
        ("bert", "BertForSequenceClassification", "classifier"),
        ("clip", "CLIPModel", "clip"),
        ("siglip", "SiglipModel", "clip"),
        ("whisper", "WhisperForConditionalGeneration", "encoder.audio"),
        ("dinov2", "Dinov2Model", "encoder.image"),
    ],
)
def test_the_kind_of_a_checkpoint(tmp_path: Path, model_type: str, architecture: str, kind: str) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert kind_of(str(tmp_path)) == kind


def test_a_foundation_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "mllm.json").write_text("{}", encoding="utf-8")
    assert kind_of(str(tmp_path)) == "foundation"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no config.json"),
        ("{", "is no JSON object"),
        ("[]", "should state a model_type"),
        ('{"model_type": 3}', "should state a model_type"),
        (
            '{"model_type": "vae", "architectures": ["Vae"]}',
            r"is a vae model \(Vae\); there should be a causal or multimodal",
        ),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ExperimentError, match=says):
        kind_of(str(tmp_path))


def test_suitable_models_read_all_modalities_and_come_by_size() -> None:
    both = suitable({"image", "audio"}, "answers")
    assert [set(m.settings["encoder"]) for m in both] == [{"image", "audio"}] * len(both)
    assert [m.millions for m in both] == sorted(m.millions for m in both)
    assert {m.settings.get("native") for m in suitable({"image"}, "answers")} >= {
        "Qwen/Qwen2.5-VL-3B-Instruct"
    }
    assert all("encoder" not in m.settings for m in suitable(set(), "answers"))
    assert suitable({"depth"}, "answers") == []
    assert all("native" in m.settings for m in suitable({"video"}, "answers"))
    assert len(suitable({"video"}, "answers")) == 3
    assert all(set(m.settings) == {"clip"} for m in suitable({"image"}, "classes"))
    qwen = next(
        m for m in suitable({"image"}, "answers") if "Qwen/Qwen2.5-VL-3B-Instruct" in m.settings.values()
    )
    assert 3.755 * 4 < qwen.gigabytes < 3.755 * 8  # more than its weights, less than twice
