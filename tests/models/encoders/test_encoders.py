"""Every encoder of transformers before a causal LM: random checkpoints of two layers, saved by the real classes."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.models.encoders.load import load_saved, load_towers
from fedloom.models.encoders.pooling import group_means
from fedloom.models.mllm.load import load_model
from fedloom.models.mllm.mllm import MLLM
from fedloom.models.settings import Foundation
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.models.encoders.tiny_encoders import AUDIO, IMAGE, SECONDS, write

LLM = str(files("fedloom.models") / "shipped" / "tiny-mllm" / "llm")
NO_ATTENTION = {"convnextv2": ["pwconv1", "pwconv2"]}
"""Encoders without attention, and the targets that their adapters are given."""
ANY_LENGTH = ("whisper", "wav2vec2")
"""Towers of sounds that read as many seconds as asked."""
ANSWERS = ("red", "blue", "green", "two", "three", "cube")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: write(name, root) for name in (*IMAGE, *AUDIO)}


def modality_of(name):
    return "image" if name in IMAGE else "audio"


def settings(name, folders, **more):
    m = modality_of(name)
    return {
        "encoder": {m: str(folders[name])},
        "llm": LLM,
        "tokens": 2,
        "audio_seconds": SECONDS if name in ANY_LENGTH else None,
        "llm_lora": {"rank": 2},
        "encoder_lora": {"rank": 2, "targets": NO_ATTENTION.get(name, "auto")},
        **more,
    }


def made(name, folders, **more):
    return load_model(Foundation(**settings(name, folders, **more)), [modality_of(name)], "cpu", 0)


def samples(name, count=6):
    draw = torch.Generator().manual_seed(1)
    kind = modality_of(name)
    found = []
    for i in range(count):
        if kind == "image":
            raw = torch.randint(0, 256, (3, 40 + i, 50), generator=draw, dtype=torch.uint8)
        else:
            raw = torch.randn(9000 + 1000 * i, generator=draw) * 0.2
        found.append(Sample(f"s{i}", {kind: raw}, "what is it?", ANSWERS[i % len(ANSWERS)]))
    return found


def job(model, client, examples):
    training = Training(schedule="simultaneous", batch_size=3, projector="both", lr=0.01)
    return LocalJob(client, examples, {}, frozenset(model.tensors), training, 0, 1, 1, {})


@pytest.mark.parametrize("name", [*IMAGE, *AUDIO])
def test_an_encoder_trains_alone_and_in_a_cohort_with_equal_ends(name, folders) -> None:
    model = made(name, folders)
    model.root.double()  # a tensor with next to no gradient would go either way in single precision
    model.start = {n: t.double() for n, t in model.start.items()}
    group = f"encoder.{modality_of(name)}"
    buffers = {n: b.clone() for n, b in model.root.named_buffers()}
    examples = [model.prepare(s) for s in samples(name)]
    before = [f[modality_of(name)].clone() for f in model.features(examples)]
    assert before[0].shape == (2, model.mllm.encoder.widths[modality_of(name)])
    jobs = [job(model, "a", examples[:4]), job(model, "b", examples[4:])]
    alone = [train_one(model, j) for j in jobs]
    together = train_cohort(model, jobs)
    for one, other in zip(alone, together, strict=True):
        assert any(n.startswith(f"{group}/") and t.any() for n, t in one.tensors.items() if n.endswith("_B"))
        for n, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[n], tensor, atol=1e-5, rtol=1e-4, msg=n)
    model.load({})
    after = [f[modality_of(name)] for f in model.features(examples)]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert all(torch.equal(b, buffers[n]) for n, b in model.root.named_buffers()), "statistics stay"


@pytest.mark.parametrize("name", [*IMAGE, *AUDIO])
def test_the_loss_falls_on_a_fixed_batch(name, folders) -> None:
    model = made(name, folders)
    examples = [model.prepare(s) for s in samples(name, 3)]
    optimiser = torch.optim.Adam(model.begin(model.tensors), 1e-2)
    losses = []
    for _ in range(8):
        loss = model.loss(examples)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", [*IMAGE, *AUDIO])
def test_plain_transformers_and_peft_give_the_saved_adapters_features(name, folders, tmp_path) -> None:
    from peft import PeftModel

    kind = modality_of(name)
    model = made(name, folders)
    with torch.no_grad():
        for n, parameter in model.tensors.items():
            if n.endswith("lora_B"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(n)))
    examples = [model.prepare(s) for s in samples(name, 2)]
    ours = torch.stack([f[kind] for f in model.features(examples)])
    model.save_adapters(tmp_path)
    plain = load_towers({kind: folders[name]}, SECONDS if name in ANY_LENGTH else None)
    x = torch.stack([e.inputs[kind] for e in examples])
    arguments, tower = plain.readers[kind].arguments(x), plain.trunks[kind]
    tower = PeftModel.from_pretrained(tower, tmp_path / f"encoder.{kind}").eval()
    with torch.no_grad():
        states = tower(**arguments).last_hidden_state
    if states.dim() == 4:
        states = states.flatten(2).transpose(1, 2)
    extra = {"clip": 1, "whole-clip": 1, "dinov2": 1, "dinov3": 3, "vit": 1, "ast": 2}.get(name, 0)
    states = states[:, extra:]
    theirs = normalize(group_means(states, torch.full((2,), states.shape[1]), 2), dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*IMAGE, *AUDIO])
def test_an_assembled_model_is_saved_and_read(name, folders, tmp_path) -> None:
    kind = modality_of(name)
    model = made(name, folders, llm_lora=None, encoder_lora=None)
    examples = [model.prepare(s) for s in samples(name, 2)]
    want = model.score(examples), model.loss(examples)
    model.mllm.save_pretrained(tmp_path)
    again = MLLM.from_pretrained(tmp_path)
    assert again.encoder.modalities == (kind,)
    assert torch.allclose(again([again.prepare(s) for s in samples(name, 2)]).loss, want[1], atol=1e-6)


@pytest.fixture(scope="module")
def silos(folders):
    def make(*names, **more):
        encoders = {modality_of(n): str(folders[n]) for n in names}
        model = {"encoder": encoders, "llm": LLM, "tokens": 2, "llm_lora": {"rank": 2}}
        if any(n in ANY_LENGTH for n in names):
            model["audio_seconds"] = SECONDS
        held = {"image": 1, "audio": 1, "both": 1} if len(names) == 2 else {modality_of(names[0]): 2}
        fields = {
            "name": "encoders",
            "rounds": 2,
            "method": "feda2-lora",
            "data": {"clients": held, "train": 4, "test": 1},
            "model": {**model, "encoder_lora": {"rank": 2, "targets": NO_ATTENTION.get(names[0], "auto")}},
            "training": {"batch_size": 2},
            "evaluation": {"every": 2, "generate": False, "controls": False, "samples": 0},
        }
        return Experiment.parse({**fields, **more})

    return make


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("names", [("siglip", "whisper"), *((n,) for n in (*IMAGE, *AUDIO))], ids="+".join)
def test_a_federation_on_them_resumes_to_the_same_bits_and_loads(names, silos, tmp_path) -> None:
    def stop(progress):
        if progress.round == 1 and progress.client is None:
            raise StoppedError

    whole = run(silos(*names), tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(silos(*names), tmp_path / "parts", observe=stop)
    run(silos(*names), tmp_path / "parts", resume=True)
    for file in sorted((tmp_path / "whole" / "model").rglob("*.safetensors")):
        other = tmp_path / "parts" / "model" / file.relative_to(tmp_path / "whole" / "model")
        assert file.read_bytes() == other.read_bytes(), file.name
    rows = whole.summary["clients"]
    tested, cut = (sum(r["test"] for r in rows if held in ("", *r["holds"])) for held in ("", "audio"))
    says = (
        f", but {cut} of {tested} test samples were cut to fit" if cut else ""
    )  # sounds are longer than is read
    assert whole.summary["status"] == f"complete{says}"
    notes = "\n".join(whole.summary["notes"])
    assert "the projector starts from random weights" in notes
    assert all(f"the {modality_of(n)} encoder reads" in notes for n in names)
    model = fedloom.load(tmp_path / "whole")
    trained = [n for n in model.tensors if n.startswith(f"encoder.{modality_of(names[0])}/")]
    assert any(not torch.equal(model.tensors[n].detach(), model.start[n]) for n in trained)


def test_whisper_reads_the_seconds_that_it_is_asked_for_and_says_what_that_saves(folders) -> None:
    from transformers import WhisperModel

    short = load_towers({"audio": folders["whisper"]}, 1.0)
    assert short.described() == {"audio": "1 s of every sound in 50 positions instead of 200, 75% less"}
    whole = load_towers({"audio": folders["whisper"]})
    assert "model.audio_seconds would make it read less" in whole.described()["audio"]
    wave = torch.randn(30_000)
    assert short.cuts("audio", wave)
    assert not whole.cuts("audio", wave)
    plain = WhisperModel.from_pretrained(folders["whisper"]).encoder.eval()
    with torch.no_grad():
        want = plain(whole.preprocess("audio", wave)[None]).last_hidden_state
        got, _ = whole._states("audio", whole.preprocess("audio", wave)[None])
    torch.testing.assert_close(got, want)
    position = short.trunks["audio"].embed_positions.weight
    assert torch.equal(position, plain.embed_positions.weight[:50])


def test_a_sound_that_is_cut_is_counted(folders) -> None:
    model = made("whisper", folders)
    short, long = (
        model.prepare(Sample("a", {"audio": torch.randn(n)}, "what?", "red")) for n in (9_000, 20_000)
    )
    assert (short.truncated, long.truncated) == (False, True)


def test_padding_of_a_masked_tower_changes_nothing(tmp_path) -> None:
    """wav2vec 2.0 with layer norm was trained with a mask: a short sound reads as it does alone."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    conv = {
        "conv_dim": (16, 16),
        "conv_stride": (10, 10),
        "conv_kernel": (16, 12),
        "num_feat_extract_layers": 2,
    }
    heads = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    own = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 8}
    Wav2Vec2Model(Wav2Vec2Config(**conv, **heads, **own, num_conv_pos_embedding_groups=4)).save_pretrained(
        tmp_path
    )
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    wave = torch.randn(8_000)
    half, whole = (load_towers({"audio": tmp_path}, seconds) for seconds in (0.5, 1.0))
    one, other = (e.encode("audio", e.preprocess("audio", wave)[None], tokens=3) for e in (half, whole))
    torch.testing.assert_close(one, other, atol=2e-2, rtol=0.1)  # the last frame sees the padding


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"encoder": {"image": "/no/where/at/all"}},
            r"model\.encoder\.image: there is no folder /no/where/at/all",
        ),
        ({"encoder": {"audio": "dinov2"}}, r"reads pixel_values; name an encoder of audio"),
        ({"encoder": {"image": "ast"}}, r"reads input_values; name an encoder of image"),
        (
            {"encoder": {"audio": "wav2vec2"}, "audio_seconds": None},
            r"reads sounds of any length; say how many",
        ),
        ({"encoder": {"audio": "ast"}, "audio_seconds": 0.3}, r"always reads 0\.64 s; leave the setting out"),
        ({"encoder": {"audio": "whisper"}, "audio_seconds": 9.0}, r"and .*whisper reads at most 4 s"),
        (
            {"encoder": {"image": "siglip"}, "tokens": 99},
            r"model\.tokens is 99, and the image encoder has 16",
        ),
        ({"encoder": {"image": "siglip"}, "audio_seconds": 2.0}, r"encoder\.audio, which is missing"),
        (
            {"encoder": {"image": "convnextv2"}},
            r"auto finds none of the linear layers of encoder\.image; .*pwconv1",
        ),
        ({"encoder": {"image": "siglip"}, "llm": None}, r"model\.llm and model\.encoder go together"),
    ],
)
def test_mistakes_are_one_sentence(change, says, folders) -> None:
    fields = {"llm": LLM, "tokens": 2, "llm_lora": {"rank": 2}, "encoder_lora": {"rank": 2}, **change}
    fields["encoder"] = {m: str(folders.get(n, n)) for m, n in fields["encoder"].items()}

    def use():
        model = load_model(Foundation(**fields), list(fields["encoder"]), "cpu", 0)
        model.features([model.prepare(s) for s in samples("siglip", 1)])

    with pytest.raises(ExperimentError, match=says) as raised:
        use()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_modality_without_an_encoder_is_named(folders) -> None:
    with pytest.raises(
        ExperimentError, match=r"clients hold audio, and model\.encoder names encoders of image"
    ):
        load_model(Foundation(**settings("siglip", folders)), ["audio", "image"], "cpu", 0)


def test_an_encoder_saved_by_parts_is_read_with_fewer_modalities(folders, tmp_path) -> None:
    both = load_towers({"image": folders["siglip"], "audio": folders["clap"]})
    both.save_pretrained(tmp_path)
    assert load_saved(tmp_path, ["audio"]).modalities == ("audio",)
