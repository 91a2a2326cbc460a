"""Conversations and several media in assembled models: frames, loss, places, cuts, refusals, cohorts."""

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.data.conversation import turns_of
from fedloom.data.sample import Sample, key_of
from fedloom.models.lora.layers import LoRA
from fedloom.models.mllm.chat import ChatFrame
from fedloom.models.mllm.load import load_model
from fedloom.models.mllm.prompt import AFTER, ASSISTANT, GAP, GAP_TEXT, HUMAN, START, PromptConfig, assemble
from fedloom.models.settings import Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.mllm.test_mllm import make
from tests.models.mllm.test_mllm_prompt import BOS, EOS, letters, readable
from tests.models.mllm.tiny_llms import CHAT, chatting


def talk(*texts, images=0, system=None, uid="a"):
    """A LLaVA conversation about so many pictures (2, 3), which the stub encoder reads."""
    rng = torch.Generator().manual_seed(sum(map(ord, uid)))
    keys = [key_of("image", n + 1) for n in range(images)]
    said = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    said = said if system is None else [{"from": "system", "value": system}, *said]
    media = {key: torch.randint(0, 9, (2, 3), generator=rng) for key in keys}
    return Sample(uid, media, texts[-2], texts[-1], turns=turns_of(said, keys))


def build(sample, limit=10_000, **config):
    frame = PromptConfig(**config)
    return assemble(frame, letters, sample.conversation, bos=BOS, eos=EOS, limit=limit)


SAID = ("<image>\nq1", "a1", "and <image> here", "a2")


def test_every_question_of_the_papers_frame_has_its_form_and_media_between_words_tags_of_their_own() -> None:
    pieces = build(talk(*SAID, images=2, system="S"))
    assert [readable(run) for run in pieces.prompt] == [
        f"«{START} S {HUMAN} <image>",
        "image",
        f"</image> {GAP} q1 {AFTER}{ASSISTANT}",
        " a1»",
        f"\n{HUMAN} {GAP_TEXT} and <image>",
        "image-2",
        f"</image> here {AFTER}{ASSISTANT}",
    ]
    assert (pieces.earlier, readable(pieces.answer)) == ((3,), " a2»")
    other = build(talk("q1", "a1", "q2", "a2"), stop="\n###")
    assert [readable(run) for run in other.prompt][1:] == [
        " a1\n###",
        f" Human: {GAP_TEXT} q2 {AFTER}{ASSISTANT}",
    ]


def test_the_bare_frame_has_the_words_alone() -> None:
    pieces = build(talk(*SAID, images=2, system="S"), frame="bare")
    want = ["« S", "image", " q1", " a1»", " and ", "image-2", " here"]
    assert [readable(run) for run in pieces.prompt] == want


def test_one_turn_of_a_conversation_has_the_ids_of_a_question_and_an_answer() -> None:
    once = talk("<image>\nwhat is it?", "red", images=1)
    plain = Sample("a", once.modalities, "what is it?", "red")
    for frame in ("conversation", "bare"):
        assert build(once, frame=frame) == build(plain, frame=frame)


def test_a_chat_template_frames_every_turn_and_closes_every_answer() -> None:
    read = chatting()
    frame = ChatFrame.of(read)
    encode = lambda text: read.encode(text, add_special_tokens=False)  # noqa: E731
    sample = talk(*SAID, images=2, system="be brief")
    pieces = frame.pieces(encode, sample.conversation, stop=frame.stop, limit=10_000)
    said = [{"role": t.role, "content": t.text} for t in sample.conversation]
    ids = [i for run in pieces.prompt if not isinstance(run, str) for i in run]
    whole = read.apply_chat_template(said[:-1], tokenize=False, add_generation_prompt=True)
    assert read.decode(ids) == whole
    assert [run for run in pieces.prompt if isinstance(run, str)] == ["image", "image-2"]
    [earlier] = pieces.earlier
    assert read.decode(pieces.prompt[earlier]) == "a1<|im_end|>"
    assert read.decode(pieces.answer) == "a2<|im_end|>"


def test_a_template_without_an_end_of_turn_gets_the_stop_after_every_answer() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    read = chatting(template=template)
    frame = ChatFrame.of(read)
    assert frame.stop == ()
    encode = lambda text: read.encode(text, add_special_tokens=False)  # noqa: E731
    turns = talk("q1", "a1", "q2", "a2").conversation
    pieces = frame.pieces(encode, turns, stop=[read.eos_token_id], limit=100)
    end = read.eos_token
    assert [read.decode(run) for run in pieces.prompt] == [
        "user: q1 assistant: ",
        f"a1{end}",
        " user: q2 assistant: ",
    ]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT,
            r"refuses a system turn and 2 questions \(no system\)",
        ),
        (
            CHAT.replace("for m in messages", "for m in messages[:2]"),
            "does not show a system turn and 2 questions once each",
        ),
    ],
)
def test_turns_that_a_template_does_not_take_are_one_sentence(template, says) -> None:
    model = make(prompt={"frame": "chat"})
    model.tokenizer.chat_template = template
    sample = talk("q", "a", "q", "a", system="S")
    with pytest.raises(
        ExperimentError, match=f"sample 'a': model.prompt: the tokenizer's chat template {says}"
    ):
        model.prepare(sample)


def test_the_oldest_exchanges_are_cut_first_and_their_pictures_stay() -> None:
    sample = talk("<image>\nfirst question", "a1", "second", "a2", "third", "a3", images=1, system="S")
    full = build(sample)
    assert not full.truncated
    cut = build(sample, limit=full.text_tokens - 1)
    kept = build(talk("<image>\nsecond", "a2", "third", "a3", images=1, system="S"))
    assert cut.truncated
    assert (cut.prompt, cut.answer) == (kept.prompt, kept.answer)
    last = build(talk("<image>\nthird", "a3", images=1, system="S"))
    short = build(sample, limit=last.text_tokens - 4)
    assert readable(short.prompt[2]) == f"</image> {GAP} t {AFTER}{ASSISTANT}"
    assert readable(short.answer) == " a3»"
    least = build(sample, limit=last.text_tokens - 8)
    assert readable(least.prompt[0]) == f"«{START} {HUMAN} <image>"


def test_summed_inputs_are_one_of_each_modality_before_one_question() -> None:
    model = make(combine="sum")
    for sample, says in [
        (talk(*SAID, images=2), "has several turns"),
        (talk("<image><image>q", "a", images=2), r"has several inputs of one modality \(image, image\)"),
        (talk("q <image>", "a", images=1), "has a medium behind words"),
    ]:
        with pytest.raises(ExperimentError, match=f"sample 'a' {says}, and combine: sum adds one input"):
            model.prepare(sample)
    assert model.prepare(talk("<image>q", "a", images=1)).pieces.prompt[1] == "image"


def test_the_loss_is_that_of_all_answers_and_the_score_of_the_last() -> None:
    model = make()
    whole = model.prepare(talk("<image>\nwhat is it?", "red", "and <image>?", "the blue one", images=2))
    first = model.prepare(talk("<image>\nwhat is it?", "red", images=1))
    out, last, one = model([whole]), model([whole], earlier=False), model([first])
    n = [len(first.pieces.answer), len(whole.pieces.answer)]
    assert out.labels.tolist() == [*first.pieces.answer, *whole.pieces.answer]
    assert last.labels.tolist() == list(whole.pieces.answer)
    expected = (n[0] * one.loss + n[1] * last.loss) / sum(n)
    assert out.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(out.logits[: n[0]], one.logits, atol=1e-5)
    alone = [model.generate([e], 4)[0] for e in (whole, first)]
    assert model.generate([whole, first], 4) == alone


def test_every_picture_stands_at_its_own_place() -> None:
    model = make(tokens=2, pool="mean")
    sample = talk("<image>\nwhat is it?", "red", "and <image>?", "blue", images=2)
    seen: list[torch.Tensor] = []
    hook = model.llm.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["inputs_embeds"][0]), with_kwargs=True
    )
    for number, key in enumerate(sample.modalities):
        changed = Sample(
            "a", {**sample.modalities, key: sample.modalities[key] + 5}, "", "blue", turns=sample.turns
        )
        for own in (sample, changed):
            example = model.prepare(own)
            model([example])
        moved = (seen[-1] - seen[-2]).abs().amax(-1) > 1e-7
        at = 0
        for run in example.pieces.prompt:
            width = 2 if isinstance(run, str) else len(run)
            assert moved[at : at + width].all() if run == key else not moved[at : at + width].any(), (
                number,
                run,
            )
            at += width
    hook.remove()


def test_a_batch_of_other_numbers_of_pictures_has_the_loss_of_each_alone() -> None:
    model = make()
    examples = [
        model.prepare(talk("<image><image>\nq", "red", "<image>?", "blue", images=3, uid="a")),
        model.prepare(talk("q", "red", uid="b")),
        model.prepare(talk("<image>q", "a red circle", images=1, uid="c")),
        model.prepare(Sample("d", talk("q", "a", images=2, uid="d").modalities, "which?", "red")),
    ]
    assert model.prepare(talk("q", "a", images=2)).pieces.prompt[1:3] == ("image", "image-2")
    features = model.features(examples)
    assert [sorted(f) for f in features] == [
        ["image", "image-2", "image-3"],
        [],
        ["image"],
        ["image", "image-2"],
    ]
    out = model(examples, features)
    for i, example in enumerate(examples):
        alone = model([example])
        assert torch.allclose(out.logits[out.index == i], alone.logits, atol=1e-5)
        assert out.labels[out.index == i].tolist() == alone.labels.tolist()


def test_a_cohort_with_other_numbers_of_pictures_and_turns_ends_as_its_clients_alone() -> None:
    lora = LoRA(rank=2, dropout=0.1)
    model = load_model(Foundation(llm_lora=lora, encoder_lora=lora), ["image", "audio"], "cpu", 0)
    rng = torch.Generator().manual_seed(0)

    def sample(images, sounds, *texts):
        keys = [key_of("image", n + 1) for n in range(images)] + [
            key_of("audio", n + 1) for n in range(sounds)
        ]
        media = {
            key: torch.randint(0, 256, (3, 48, 48), generator=rng, dtype=torch.uint8)
            if key.startswith("image")
            else torch.randn(8_000, generator=rng) * 0.1
            for key in keys
        }
        said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return Sample("s", media, "", texts[-1], turns=turns_of(said, keys))

    parts = [
        [
            sample(2, 1, "<image> and <image>?", "red", "what do you hear?", "two"),
            sample(1, 0, "what?", "blue"),
        ],
        [sample(0, 2, "which?", "red"), sample(3, 0, "what is it?", "a cube", "why?", "red", "so?", "two")],
        [sample(0, 0, "hello", "red", "two", "blue"), sample(0, 0, "red?", "two")],
    ]
    draw = torch.Generator().manual_seed(1)
    start = {n: t + 0.05 * torch.randn(t.shape, generator=draw) for n, t in model.start.items()}
    jobs = [
        LocalJob(
            client=f"c{k}",
            examples=[model.prepare(s) for s in part],
            start=start,
            names=frozenset(n for n in model.tensors if group_of(n) == "llm" or k < 2),
            training=Training(epochs=1, batch_size=2, lr=0.05, optimizer="sgd", schedule="simultaneous"),
            seed=0,
            round=1,
            rounds=2,
            ratios={},
        )
        for k, part in enumerate(parts)
    ]
    alone = [train_one(model, job) for job in jobs]
    moved = dict.fromkeys(map(group_of, model.tensors), 0.0)
    for one, together in zip(alone, train_cohort(model, jobs), strict=True):
        assert together.loss == pytest.approx(one.loss, abs=1e-5)
        for name, tensor in together.tensors.items():
            assert torch.allclose(tensor, one.tensors[name], atol=1e-5), name
            change = float((tensor - start[name]).abs().max())
            moved[group_of(name)] = max(moved[group_of(name)], change)
    assert min(moved.values()) > 5e-5, moved
