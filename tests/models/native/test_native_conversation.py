"""Conversations and several media in native models: places of answers, loss, pictures, cohorts, refusals."""

from dataclasses import replace

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Medium, Sample, Turn, key_of
from fedloom.models.native.collate import collate
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.native.conftest import modalities_of
from tests.models.native.test_families import stirred
from tests.models.native.tiny_families import FAMILIES

TURNS = [name for name in FAMILIES if name != "paligemma"]  # it answers one question
NO_SYSTEM = {"voxtral"}


def media(name: str, counts: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    """So many inputs of each modality of a family, of several sizes."""
    rng, made = torch_stream(seed, "media"), {}
    for modality, count in zip(modalities_of(name), counts, strict=False):
        for n in range(1, count + 1):
            size = (3, 36 + 13 * n + 3 * seed, 90 - 17 * n)
            image = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)
            sound = torch.randn(9_000 + 1_700 * n + 300 * seed, generator=rng) * 0.1
            made[key_of(modality, n)] = image if modality == "image" else sound
    return made


def user(*parts: str | Medium) -> Turn:
    return Turn("user", parts)


def talk(
    uid: str, held: dict[str, torch.Tensor], *exchanges: tuple[int, str, str], system: str = ""
) -> Sample:
    """A conversation of (media of the question, question, answer)."""
    keys = iter([Medium(key.partition("-")[0], key) for key in held])
    turns = [Turn("system", (system,))] if system else []
    for count, question, answer in exchanges:
        turns += [user(*(next(keys) for _ in range(count)), question), Turn("assistant", (answer,))]
    return Sample(uid, held, exchanges[-1][1], exchanges[-1][2], turns=tuple(turns))


@pytest.mark.parametrize(
    "name", [n for n in TURNS if n != "llava_onevision"]
)  # cuts a single picture into more tiles
def test_earlier_answers_stand_as_they_would_alone_and_are_labels(name, reader) -> None:
    """By prefix difference: a conversation begins with the prompt and the answer of each shorter one."""
    reads, held = reader(name), media(name, (2,))
    said = [(1, "what?", "red"), (0, "why </s>?", "a dog <s>"), (1, "and this?", "blue")]
    system = "" if name in NO_SYSTEM else "be brief"
    whole = reads.prepare(talk("a", held, *said, system=system))
    first = next(iter(held))
    for k, (begin, end) in enumerate(whole.earlier):
        part = reads.prepare(talk("a", {first: held[first]}, *said[: k + 1], system=system))
        assert torch.equal(whole.ids[:begin], part.ids)
        assert tuple(whole.ids[begin:end].tolist()) == part.answer
        assert part.answer[-1] == reads.stop
    assert len(whole.earlier) == 2
    assert reads.tokenizer.decode(whole.answer).strip().startswith("blue")
    batch = collate([part, whole], reads.pad, answers=True)
    places = [i - 1 for begin, end in whole.earlier for i in range(begin, end)]
    places += range(len(whole.ids) - 1, len(whole.ids) - 1 + len(whole.answer))
    own = batch.rows == 1
    assert batch.predict[own].tolist() == places
    shown = [batch.inputs["input_ids"][1, i + 1].item() for i in places]
    assert batch.labels[own].tolist() == shown
    last = collate([part, whole], reads.pad, answers=True, earlier=False)
    assert tuple(last.labels[last.rows == 1].tolist()) == whole.answer
    for tensor in whole.aligned.values():
        assert len(tensor) == len(whole.ids)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen2_audio"])
def test_the_loss_of_a_conversation_is_that_of_its_answers_each_after_all_before(name, native) -> None:
    model, held = native(name), media(name, (2,))
    model.load(stirred(model))
    said = [(1, "what?", "red"), (1, "and this?", "bluish")]
    whole = model.prepare(talk("a", held, *said))
    first = model.prepare(talk("a", {k: held[k] for k in list(held)[:1]}, said[0]))
    n = [len(first.answer), len(whole.answer)]
    logits, labels, _ = model._answers([whole], earlier=False)
    last = torch.nn.functional.cross_entropy(logits, labels)
    expected = (n[0] * model.loss([first]) + n[1] * last) / sum(n)
    assert float(model.loss([whole])) == pytest.approx(float(expected), abs=2e-5)
    assert model.score([whole])[0][0] == n[1]
    assert model.generate([whole, first], 3) == [model.generate([e], 3)[0] for e in (whole, first)]


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "llava_onevision", "qwen2_vl", "idefics3", "internvl", "voxtral"]
)
def test_every_medium_is_read_at_its_own_place(name, native) -> None:
    """A change of one input changes the LLM's inputs at its placeholders alone."""
    model, held = native(name), media(name, (2,))
    inputs: list[torch.Tensor] = []

    def keep(module, args, kwargs):
        inputs.append(kwargs["inputs_embeds"].detach()[0])

    hook = model.model.get_submodule(model.family.llm).register_forward_pre_hook(keep, with_kwargs=True)
    place = next(iter(model.reader.placeholders.values()))
    for key in held:
        changed = {**held, key: held[key].flip(-1)}
        for own in (held, changed):
            example = model.prepare(talk("a", own, (1, "what?", "red"), (1, "and this?", "blue")))
            model.score([example])
        moved = (inputs[-1] - inputs[-2]).abs().amax(-1) > 1e-7
        where = torch.cat([example.ids, torch.zeros(len(example.answer))]).eq(place)
        between = example.earlier[0][0]
        assert moved.any()
        assert not (moved & ~where).any()
        first, second = moved[:between].any(), moved[between:].any()
        assert (bool(first), bool(second)) == (("-" not in key), ("-" in key))
    hook.remove()


@pytest.mark.parametrize("name", [n for n in TURNS if n != "gemma4"])
def test_a_cohort_with_other_numbers_of_media_ends_where_its_clients_end_alone(name, native) -> None:
    model = native(name, dropout=0.1)
    held = modalities_of(name)
    jobs = {}
    for k, counts in enumerate([(2, 1), (1, 2), (3, 0), (0, 0)]):
        groups = model.groups(held if k < 3 else [])
        one, two = media(name, counts, k), media(name, tuple(min(c, 1) for c in counts), k + 7)
        conversations = [
            talk(f"{k}-0", one, (len(one), "what is it?", "red"), (0, "sure?", "a dog")),
            talk(f"{k}-1", two, (0, "hi", "yes"), (len(two), "and?" * (k + 1), "blue")),
            Sample(f"{k}-2", one, "which?", "the last"),
        ]
        jobs[f"c{k}"] = LocalJob(
            client=f"c{k}",
            examples=[model.prepare(s) for s in conversations],
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
        for n, tensor in outcome.tensors.items():
            assert torch.allclose(tensor, alone[client].tensors[n], atol=1e-5), n
            moved[group_of(n)] = max(moved[group_of(n)], float((tensor - jobs[client].start[n]).abs().max()))
    assert min(moved.values()) > 5e-5, moved


def test_a_long_conversation_loses_its_oldest_exchanges_and_keeps_their_pictures(reader, monkeypatch) -> None:
    reads, held = reader("llava"), media("llava", (1,))
    said = [(1, "what is the first thing?", "red"), (0, "why that?", "so"), (0, "really?", "yes")]
    full = reads.prepare(talk("a", held, *said, system="be brief"))
    text = int(full.ids.ne(reads.placeholders["image"]).sum()) + len(full.answer)
    monkeypatch.setattr(reads, "limit", text - 1)
    cut = reads.prepare(talk("a", held, *said, system="be brief"))
    assert cut.truncated
    assert not full.truncated
    shorter = reads.prepare(talk("a", held, (1, *said[1][1:]), said[2], system="be brief"))
    assert torch.equal(cut.ids, shorter.ids)
    assert cut.earlier == shorter.earlier
    monkeypatch.setattr(reads, "limit", 60)
    short = reads.prepare(talk("a", held, *said, system="be brief"))
    assert short.earlier == ()
    assert int(short.ids.eq(reads.placeholders["image"]).sum()) == 4
    assert short.answer[-1] == reads.stop


@pytest.mark.parametrize(
    ("name", "counts", "says"),
    [
        (
            "mllama",
            (2,),
            r"sample 'a' has 2 inputs of image, and .* \(family mllama\) reads one a sample here",
        ),
        (
            "paligemma",
            (2,),
            r"sample 'a' has 2 inputs of image, and .* \(family paligemma\) reads one a sample here",
        ),
        (
            "audioflamingo3",
            (2,),
            r"sample 'a' has 2 inputs of audio, and .* reads one a sample here; split the sample",
        ),
        (
            "paligemma",
            (1,),
            r"the chat template of .* does not show a system turn and 2 questions once each, which sample 'a'",
        ),
    ],
)
def test_what_a_family_does_not_read_is_one_sentence(name, counts, says, reader) -> None:
    held = media(name, counts)
    sample = talk("a", held, (len(held), "what?", "red"), (0, "why?", "so"), system="be brief")
    with pytest.raises(ExperimentError, match=says):
        reader(name).prepare(sample)


def test_a_template_that_refuses_a_system_turn_is_one_sentence(reader, monkeypatch) -> None:
    reads = reader("voxtral")
    monkeypatch.setattr(reads, "template", reads.family.template)
    says = r"the chat template of .* refuses a system turn and a question \(it has no system turn\), which sample 'a' has"
    with pytest.raises(ExperimentError, match=says):
        reads.prepare(talk("a", {}, (0, "what?", "red"), system="be brief"))


def test_answers_see_the_picture_in_training_as_in_generation(native) -> None:
    """Mllama's cross-attention mask goes on over an answer."""
    model = native("mllama")
    model.load(stirred(model))
    example = model.prepare(talk("a", media("mllama", (1,)), (1, "what?", "red"), (0, "why?", "so")))
    prompt = model._inputs(model._collate([example], answers=False))
    steps = model.model.generate(
        **prompt,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    answer = tuple(steps.sequences[0, len(example.ids) :].tolist())
    with torch.no_grad():
        logits, _, _ = model._answers([replace(example, answer=answer)], earlier=False)
    assert torch.allclose(logits, torch.cat(steps.scores), atol=1e-5)


def test_one_picture_a_sample_is_no_obstacle_to_several_turns(native) -> None:
    model = native("mllama")
    held = media("mllama", (1,))
    examples = [
        model.prepare(talk("a", held, (1, "what?", "red"), (0, "why?", "so"))),
        model.prepare(talk("b", {}, (0, "what?", "red"), (0, "why is it?", "so"))),
    ]
    together = model.losses(examples, [0, 1], 2)
    assert torch.allclose(together, torch.stack([model.loss([e]) for e in examples]), atol=1e-5)
