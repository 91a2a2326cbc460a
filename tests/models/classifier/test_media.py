"""Encoders with a head for labels: random checkpoints of the real classes, alone, in a cohort, and in plain PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.classifier.load import load_media_classifier
from fedloom.models.classifier.media import MediaClassifier
from fedloom.models.encoders.load import load_towers
from fedloom.models.settings import ClassifierLoRA, Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.encoders.tiny_encoders import AUDIO, IMAGE, SECONDS, write

LABELS = ("ape", "bear", "cat")
ANY_LENGTH = ("whisper", "wav2vec2")
"""Towers of sounds that read as many seconds as asked."""
TARGETS = {"convnextv2": ("pwconv1", "pwconv2")}
"""Targets of encoders without attention."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: write(name, root) for name in (*IMAGE, *AUDIO)}


def modality_of(name: str) -> str:
    return "image" if name in IMAGE else "audio"


def made(name: str | None, folders: dict[str, Path], kind: str = "image") -> MediaClassifier:
    """A classifier on one of the folders; without a name, on the shipped encoder."""
    lora = ClassifierLoRA(rank=2, targets=TARGETS.get(name or "", "auto"))
    settings: dict[str, Any] = {"body_lora": lora}
    if name is not None:
        kind = modality_of(name)
        settings |= {
            "encoder": {kind: str(folders[name])},
            "audio_seconds": SECONDS if name in ANY_LENGTH else None,
        }
    return load_media_classifier(Foundation(**settings), kind, LABELS, "cpu", 0)


def samples(kind: str, count: int = 6) -> list[Sample]:
    draw = torch.Generator().manual_seed(1)
    found = []
    for i in range(count):
        if kind == "image":
            raw = torch.randint(0, 256, (3, 40 + i, 50), generator=draw, dtype=torch.uint8)
        else:
            raw = torch.randn(9000 + 1000 * i, generator=draw) * 0.2
        found.append(Sample(f"s{i}", {kind: raw}, "", LABELS[i % 3], {"labels": LABELS, "pair": None}))
    return found


def job(model: MediaClassifier, client: str, examples: list[Any]) -> LocalJob:
    training = Training(batch_size=3, lr=0.01)
    return LocalJob(client, examples, {}, frozenset(model.tensors), training, 0, 1, 1, {})


@pytest.mark.parametrize("name", [*IMAGE, *AUDIO])
def test_every_encoder_trains_alone_and_in_a_cohort_with_equal_ends(name: str, folders) -> None:
    model = made(name, folders)
    model.root.double()  # a tensor with next to no gradient would go either way in single precision
    model.start = {n: t.double() for n, t in model.start.items()}
    examples = [model.prepare(s) for s in samples(modality_of(name))]
    before = model.loss(examples).item()
    jobs = [job(model, "a", examples[:4]), job(model, "b", examples[4:])]
    alone = [train_one(model, j) for j in jobs]
    together = train_cohort(model, jobs)
    for one, other in zip(alone, together, strict=True):
        assert {n for n in one.tensors if n.startswith("head/")} == {"head/weight", "head/bias"}
        assert any(n.startswith("body/") and t.any() for n, t in one.tensors.items() if n.endswith("_B"))
        for n, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[n], tensor, atol=1e-5, rtol=1e-4, msg=n)
    model.load(alone[0].tensors)
    assert model.loss(examples[:4]).item() < before


@pytest.mark.parametrize("name", ["vit", "convnextv2", "whisper", "ast", None])
def test_saved_adapters_and_head_give_the_same_logits_in_plain_peft(
    name: str | None, folders, tmp_path
) -> None:
    model = made(name, folders)
    stream = torch.Generator().manual_seed(1)
    model.load({n: 0.3 * torch.randn(t.shape, generator=stream) for n, t in model.tensors.items()})
    examples = [model.prepare(s) for s in samples(model.modality, 2)]
    with torch.no_grad():
        wanted = model.logits(examples)
    model.save_adapters(tmp_path)
    again = made(name, folders)
    again.load(MediaClassifier.read_adapters(tmp_path))
    with torch.no_grad():
        assert torch.equal(again.logits(examples), wanted)
    listed = json.loads((tmp_path / "fedloom.json").read_text())
    assert (listed["modality"], listed["labels"]) == (model.modality, list(LABELS))
    if name is None:
        return
    seconds = SECONDS if name in ANY_LENGTH else None
    plain: Any = load_towers({model.modality: folders[name]}, seconds)
    plain.trunks[model.modality] = PeftModel.from_pretrained(
        plain.trunks[model.modality], tmp_path / "body"
    ).eval()
    head = load_file(tmp_path / "head.safetensors")
    with torch.no_grad():
        pooled = plain.encode(model.modality, torch.stack([e.input for e in examples]), scale="native")
    torch.testing.assert_close(pooled @ head["weight"].T + head["bias"], wanted, atol=1e-5, rtol=1e-4)


def test_probabilities_sum_to_one_and_begin_with_the_generated_label(folders) -> None:
    model = made(None, folders, "audio")
    sample = samples("audio", 1)[0]
    shares = model.classify(sample.modalities["audio"])
    assert set(shares) == set(LABELS)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == model.generate([model.prepare(sample)], 1)[0]
    assert [*shares.values()] == sorted(shares.values(), reverse=True)


def test_a_sample_of_another_kind_or_with_other_labels_is_refused(folders) -> None:
    model = made(None, folders)
    with pytest.raises(
        ExperimentError, match="s0 holds audio, and the classifier reads one input of the kind image"
    ):
        model.prepare(samples("audio", 1)[0])
    (sample,) = samples("image", 1)
    turned = Sample("x", sample.modalities, "", "ape", {"labels": LABELS[::-1], "pair": None})
    with pytest.raises(ExperimentError, match="the model's labels are ape, bear, cat, in this order"):
        model.prepare(turned)
