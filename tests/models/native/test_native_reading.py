"""The preparation of native samples as tensors: through a file and another process's copy, nothing is lost."""

import pickle
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fedloom.core.tensor_files import with_checksum
from fedloom.data.sample import Sample
from fedloom.models.loading.reading import reading_key
from fedloom.models.native.prompt import NativeExample
from fedloom.models.native.reading import NativeReading, example_of
from tests.models.native.test_native_conversation import talk
from tests.models.native.test_native_prompt import media_of
from tests.models.native.tiny_families import FAMILIES


def plain(example: NativeExample) -> dict[str, Any]:
    fields = dict(vars(example))
    named = {f"{n}/{k}": t for n in ("aligned", "media") for k, t in fields.pop(n).items()}
    named["ids"] = fields.pop("ids")
    return fields | {n: (t.dtype, t.shape, t.flatten().tolist()) for n, t in named.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_of_the_reading_gives_the_same_example(name, reader) -> None:
    reading = NativeReading(reader(name))
    copy = pickle.loads(pickle.dumps(reading))
    sample = Sample("a", media_of(name), "what?", "red")
    want = reader(name).prepare(sample)
    assert plain(example_of(sample, load(with_checksum(copy(sample))))) == plain(want)
    assert reading_key(copy) == reading_key(reading)


def test_earlier_answers_and_cuts_are_kept(reader) -> None:
    reads = reader("qwen2_5_vl")
    picture = media_of("qwen2_5_vl")
    sample = talk("a", picture, (1, "what?", "red"), (0, "why?", "so"))
    want = reads.prepare(sample)
    assert want.earlier
    assert plain(example_of(sample, NativeReading(reads)(sample))) == plain(want)


def test_the_key_changes_with_limit_template_and_processor(reader) -> None:
    reads = reader("llava")
    keys = {reading_key(NativeReading(reads))}
    for change in (
        lambda r: setattr(r, "limit", 7),
        lambda r: setattr(r, "template", r.template + " "),
        lambda r: setattr(
            r.processor.image_processor, "do_resize", not r.processor.image_processor.do_resize
        ),
        lambda r: r.tokenizer.add_tokens(["zebra"]),
    ):
        copy = pickle.loads(pickle.dumps(reads))
        change(copy)
        keys.add(reading_key(NativeReading(copy)))
    assert len(keys) == 5
    assert torch.is_tensor(NativeReading(reads)(Sample("a", media_of("llava"), "what?", "red"))["ids"])
