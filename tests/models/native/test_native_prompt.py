"""Prompts of native models: the family's template, the answer's frame, special tokens in users' text, and the text limit."""

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.native.collate import collate, side_by_side
from fedloom.models.native.messages import picture
from tests.models.native.conftest import modalities_of
from tests.models.native.tiny_families import FAMILIES

PICTURE = {"image": torch.full((3, 40, 50), 90, dtype=torch.uint8)}
SOUND = {"audio": torch.linspace(-0.1, 0.1, 9000)}
ENDS = {  # (the prompt's end, the answer as tokens)
    "llava": ("what? ASSISTANT:", " red</s>"),
    "qwen2_5_vl": ("what?<|im_end|>\n<|im_start|>assistant\n", "red<|im_end|>"),
    "idefics3": ("what?<end_of_utterance>\nAssistant:", " red<end_of_utterance>"),
    "gemma3": ("what?<end_of_turn>\n<start_of_turn>model\n", "red<end_of_turn>"),
    "paligemma": ("what?\n", "red</s>"),
    "voxtral": ("what?[/INST]", "red</s>"),
}


def media_of(name: str) -> dict[str, torch.Tensor]:
    held = modalities_of(name)
    return {m: t for m, t in {**PICTURE, **SOUND}.items() if m in held}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_follows_the_generation_prompt_and_ends_as_the_template_ends_it(name, reader) -> None:
    reads = reader(name)
    example = reads.prepare(Sample("a", media_of(name), "what?", "red"))
    prompt = reads.tokenizer.decode(example.ids)
    assert prompt.endswith(ENDS[name][0])
    assert reads.tokenizer.decode(example.answer) == ENDS[name][1]


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_that_a_user_typed_are_text(name, reader) -> None:
    reads = reader(name)
    places = reads.tokenizer.convert_ids_to_tokens(list(reads.placeholders.values()))
    typed = " ".join([*places, *reads._special[-8:], "</s>"])
    plain, other = (
        reads.prepare(Sample("a", media_of(name), f"what {q}?", f"red {q}")) for q in ("is it", typed)
    )
    special = {i for i, t in reads.tokenizer.added_tokens_decoder.items() if t.special}
    for one, two in ((plain.ids, other.ids), (plain.answer, other.answer)):
        counts = [sorted(i for i in torch.as_tensor(ids).tolist() if i in special) for ids in (one, two)]
        assert counts[0] == counts[1]
    assert reads.tokenizer.decode(other.answer).endswith("</s>" + reads.tokenizer.decode([reads.stop]))


def test_without_the_option_of_transformers_a_typed_token_is_broken_up(reader, monkeypatch) -> None:
    reads = reader("qwen2_5_vl")
    original = type(reads.processor).apply_chat_template

    def older(self, conversation, **options):
        return original(self, conversation, **options)

    monkeypatch.setattr(type(reads.processor), "apply_chat_template", older)
    ids = reads.prepare(Sample("a", PICTURE, "a <|im_end|> b", "red")).ids
    assert "a < |im_end|> b" in reads.tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["llava", "paligemma", "qwen2_audio", "gemma3"])
def test_the_prompt_is_what_the_processor_makes_of_the_messages(name, reader) -> None:
    reads = reader(name)
    example = reads.prepare(Sample("a", media_of(name), "what?", "red"))
    part = {"image": {"type": "image", "image": picture(PICTURE["image"])}}
    part["audio"] = {"type": "audio", "audio": SOUND["audio"].numpy()}
    content = [*(part[m] for m in modalities_of(name)), {"type": "text", "text": "what?"}]
    made = reads.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=reads.template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    batch = collate([example], reads.pad, answers=False).inputs
    made.pop("labels", None)
    assert batch.keys() == made.keys()
    assert all(torch.equal(batch[n], made[n]) for n in made)


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "voxtral", "paligemma"])
def test_a_long_question_is_cut_and_no_placeholder_is(name, reader, monkeypatch) -> None:
    reads = reader(name)
    monkeypatch.setattr(reads, "limit", 120)
    short, long = (reads.prepare(Sample("a", media_of(name), q, "red")) for q in ("why", "why " * 100))
    place = next(iter(reads.placeholders.values()))
    assert (short.truncated, long.truncated) == (False, True)
    assert int(long.ids.eq(place).sum()) == int(short.ids.eq(place).sum()) > 0
    assert int(long.ids.ne(place).sum()) + len(long.answer) == 120
    assert long.answer[-1] == reads.stop
    endless = reads.prepare(Sample("a", media_of(name), "why", "red " * 100))
    assert endless.truncated
    assert reads.stop not in endless.answer  # no false stop is learned


def test_a_sound_that_is_longer_than_the_model_hears_is_said_to_be_cut(reader) -> None:
    reads = reader("qwen2_audio")
    assert not reads.prepare(Sample("a", {"audio": torch.zeros(32_000)}, "what?", "red")).truncated
    assert reads.prepare(Sample("a", {"audio": torch.zeros(32_001)}, "what?", "red")).truncated
    voxtral = reader("voxtral").prepare(Sample("a", {"audio": torch.zeros(40_000)}, "what?", "red"))
    assert len(voxtral.media["input_features"]) == 2  # two chunks, all of it
    assert not voxtral.truncated


def test_a_captions_sample_has_no_question_and_a_modality_of_no_encoder_is_one_sentence(reader) -> None:
    reads = reader("llava")
    caption = reads.prepare(Sample("a", PICTURE, "", "red"))
    assert reads.tokenizer.decode(caption.ids) == "USER: " + "<image>" * 4 + "\nASSISTANT:"
    with pytest.raises(
        ExperimentError, match=r"sample 'a' has audio, and .* reads image, video only; drop audio"
    ):
        reads.prepare(Sample("a", SOUND, "what?", "red"))


def test_media_of_unequal_shapes_are_padded_with_zeros() -> None:
    joined = side_by_side([{"x": torch.ones(1, 2, 3)}, {}, {"x": torch.ones(2, 3, 2), "y": torch.ones(1)}])
    assert joined["x"].shape == (3, 3, 3)
    assert joined["x"].sum() == 6 + 12
    assert joined["y"].shape == (1,)
