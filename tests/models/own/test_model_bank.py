"""Clients' own models on samples whose inputs another process made: equal architectures share them, others have their own."""

import pickle
from dataclasses import replace

import pytest
import torch

from fedloom.data.sample import Sample
from fedloom.models.image_processing import Pixels
from fedloom.models.loading.reading import reading_key
from fedloom.models.own.architectures import SIDE, Architecture, load_architecture
from fedloom.models.own.model_bank import ModelBank
from fedloom.models.own.readers import PictureReader

CLIENTS = {"a": "tiny-vit", "b": "tiny-resnet", "c": "tiny-ast"}


def bank(mean: float = 0.5) -> ModelBank:
    """Two architectures of pictures, the second with `mean` in its image processor, and one of sounds."""
    made: list[Architecture] = []
    for name in CLIENTS.values():
        modality = "audio" if name == "tiny-ast" else "image"
        made.append(load_architecture(name, modality, 2, 8, (), 0))
    for place, own in enumerate((0.5, mean)):
        pixels = Pixels((SIDE, SIDE), None, mean=(own,) * 3, std=(0.5,) * 3)
        made[place] = replace(made[place], read=PictureReader(pixels))
    return ModelBank(made, CLIENTS, ("ant", "bee"))


@pytest.mark.parametrize(("mean", "readers"), [(0.5, 1), (0.25, 2)])
def test_a_copy_of_the_reading_makes_the_inputs_of_every_architecture(mean, readers) -> None:
    model = bank(mean)
    picture = torch.arange(3 * 20 * 24, dtype=torch.uint8).reshape(3, 20, 24)
    samples = {
        "image": Sample("i", {"image": picture}, "", "bee", {"label": 1}),
        "audio": Sample("s", {"audio": torch.linspace(-1, 1, 5000)}, "", "ant", {"label": 0}),
    }
    copy = pickle.loads(pickle.dumps(model.reading))
    assert reading_key(copy) == reading_key(model.reading)
    for client, name in CLIENTS.items():
        model.current = model.architectures[name]
        sample = samples[model.current.modality]
        made = model.finish(sample, copy(sample))
        assert len(made.inputs) == (readers if "image" in sample.modalities else 1)
        want = model.prepare(sample, client)
        assert made.label == want.label
        with torch.no_grad():
            for one, other in zip(model.outputs([made]), model.outputs([want]), strict=True):
                assert torch.equal(one, other)
        assert model.guesses([sample, made]) == model.guesses([want, want])


def test_the_key_changes_with_a_processor() -> None:
    assert len({reading_key(bank(mean).reading) for mean in (0.5, 0.5, 0.25)}) == 2


@pytest.mark.parametrize(("mean", "reads"), [(0.5, 1), (0.25, 2)])
def test_a_test_sample_is_read_once_for_all_evaluations_of_equal_architectures(
    mean, reads, monkeypatch
) -> None:
    model = bank(mean)
    picture = torch.arange(3 * 20 * 24, dtype=torch.uint8).reshape(3, 20, 24)
    samples = [Sample("i", {"image": x}, "", "bee", {"label": 1}) for x in (picture, 255 - picture)]
    calls, read = [], PictureReader.__call__
    monkeypatch.setattr(PictureReader, "__call__", lambda self, raw: calls.append(1) or read(self, raw))
    for name, made in (("tiny-vit", 1), ("tiny-resnet", reads), ("tiny-vit", reads)):
        model.current = model.architectures[name]
        found = model.read(samples)
        assert len(calls) == 2 * made, "one uid, two pictures"
        for example, sample in zip(found, samples, strict=True):
            want = read(model.current.read, sample.modalities["image"])["pixel_values"]
            assert torch.equal(example.inputs[model._reader_of[name]]["pixel_values"], want)
