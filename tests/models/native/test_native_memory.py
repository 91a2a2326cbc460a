"""Checkpointing and accumulation of native models: equal gradients, less kept, and the parts that cannot."""

import pytest
import torch

from fedloom.models.native.trainable import NativeMLLM
from fedloom.models.training.kept_memory import kept_bytes
from tests.models.native.conftest import modalities_of
from tests.models.native.test_families import samples
from tests.models.training.one_step import agree, as_dtype, ended, jobs_of


def batches(model: NativeMLLM, name: str) -> list[list[object]]:
    return [[model.prepare(s) for s in samples(modalities_of(name), k)] for k in range(2)]


@pytest.mark.parametrize("together", [False, True], ids=["alone", "cohort"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "qwen2_audio"])
def test_gradients_are_those_without_checkpointing(name, together, native) -> None:
    ends, kept = [], []
    for checkpointing in (False, True):
        model = native(name, dropout=0.1)
        if checkpointing:
            model.checkpoint()
            assert not any("checkpointing" in note for note in model.notes)
        as_dtype(model, torch.float64)
        examples = batches(model, name)
        ends.append(ended(model, jobs_of(model, examples, batch_size=4), together=together))
        kept.append(kept_bytes(model, examples[0], model.tensors))
    agree(*ends, 1e-10)
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("together", [False, True], ids=["alone", "cohort"])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_audio"])
def test_gradients_in_parts_are_those_of_the_whole_batch(name, together, native) -> None:
    model = as_dtype(native(name), torch.float64)
    examples = batches(model, name)
    assert len({model.weight(e) for e in examples[0]}) > 1
    whole, parts = (
        ended(model, jobs_of(model, examples, batch_size=4, accumulate=n, clip=0.1), together=together)
        for n in (1, 3)
    )
    agree(whole, parts, 1e-10)
