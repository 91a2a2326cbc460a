"""SigLIP and VisionTextDualEncoderModel as `model.clip`: the features of plain transformers, and methods trained on them."""

import json

import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    BertConfig,
    BertModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.image_processing import Pixels
from tests.models.clip.tiny_clip import (
    CLASSES,
    PREPROCESSOR,
    SIDE,
    TEXT,
    VISION,
    WORDS,
    quick_settings,
    sample,
    tokenizer,
    write,
)


def write_other(name, folder):
    picture = {**VISION, "image_size": SIDE, "patch_size": 8}
    words = {**TEXT, "vocab_size": len(WORDS) + 1, "max_position_embeddings": 40}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "siglip":
            words |= {"projection_size": VISION["hidden_size"], "pad_token_id": 16, "eos_token_id": 15}
            model = SiglipModel(SiglipConfig(text_config=words, vision_config=picture))
        else:
            model = VisionTextDualEncoderModel(
                vision_model=ViTModel(ViTConfig(**picture)), text_model=BertModel(BertConfig(**words))
            )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3.0)
            model.logit_scale.fill_(2.0)
    read = tokenizer()
    if name == "siglip":
        read.add_special_tokens({"pad_token": "<pad>"})
    else:
        read.add_special_tokens({"cls_token": "<start>", "sep_token": "<end>", "pad_token": "<pad>"})
    model.eval().save_pretrained(folder)
    read.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**PREPROCESSOR, "image_processor_type": "CLIPImageProcessor"}), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    return {name: write_other(name, root / name) for name in ("siglip", "dual")}


def adapted(folder, method="promptfl"):
    towers, pixels = load_clip_checkpoint(folder)
    return AdaptedCLIP(towers, pixels, CLASSES, METHODS[method]().clip_adapter, seed=0)


@pytest.mark.parametrize("name", ["siglip", "dual"])
def test_zero_shot_logits_are_those_of_plain_transformers(name, folders) -> None:
    model = adapted(folders[name], "zero-shot")
    plain = (SiglipModel if name == "siglip" else VisionTextDualEncoderModel).from_pretrained(folders[name])
    texts = [f"a photo of a {c.replace('_', ' ')}." for c in CLASSES.base]
    read = model.towers.tokenizer
    start, end = ([], [read.eos_token_id]) if name == "siglip" else ([read.cls_token_id], [read.sep_token_id])
    rows = [[*start, *read(t, add_special_tokens=False)["input_ids"], *end] for t in texts]
    pad = read.pad_token_id
    length = 40 if name == "siglip" else max(map(len, rows))
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    mask = None if name == "siglip" else torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    pixels = Pixels.of(PREPROCESSOR).normal(torch.stack([e.image for e in examples]))
    with torch.no_grad():
        options = {} if mask is None else {"attention_mask": mask}
        text = plain.get_text_features(input_ids=ids, **options).pooler_output
        image = plain.get_image_features(pixel_values=pixels).pooler_output
        want = plain.logit_scale.exp() * normalize(image, dim=-1) @ normalize(text, dim=-1).T
        got = model.logits(examples, None, "base")
    assert want.std() > 1e-2
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["siglip", "dual"])
def test_a_context_of_the_templates_words_gives_the_templates_features(name, folders) -> None:
    model = adapted(folders[name])
    towers, part = model.towers, model.part
    words = towers.tokenizer(" ".join(["a"] * 16), add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        part.length = len(words[0])  # a tokenizer may need several tokens for a word
        part.prompt["context"].value = torch.nn.Parameter(towers.embed(words)[0])
        names = ("star", "ball")
        tokens = towers.tokens([" ".join(["a"] * 16) + f" {n}." for n in names])
        want = towers.text_out(towers.run("text", towers.text_in(towers.embed(tokens.ids))), tokens.end)
        torch.testing.assert_close(part.after(part.prompt["context"](), names)[0], want)


@pytest.mark.parametrize("name", ["siglip", "dual"])
def test_a_learned_prompt_learns(name, folders) -> None:
    model = adapted(folders[name])
    examples = [model.prepare(sample(i, i % 3)) for i in range(9)]
    optimiser = torch.optim.Adam(model.begin(model.tensors), 0.5)
    losses = []
    for _ in range(15):
        loss = model.loss(examples)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.rest()
    assert min(losses) < losses[0] - 5e-4


def test_the_multimodal_adapter_trains_inside_siglip_in_a_cohort_as_alone(
    folders, tmp_path, federate
) -> None:
    from fedloom.experiment.settings import Experiment

    settings = quick_settings(write(tmp_path), 2)
    settings |= {
        "method": {"name": "pfedmma", "blocks": 2, "rank": 4},
        "model": {"clip": str(folders["siglip"])},
    }
    runs = []
    for cohort in ("off", 2):
        run = federate(Experiment.parse({**settings, "engine": {"cohort": cohort}}))
        run.run()
        runs.append(run)
    one, other = (r.state.shared for r in runs)
    assert all((t - runs[0].engine.model.start[n]).abs().max() > 0 for n, t in one.items())
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "method", "says"),
    [
        ("dual", "pfedmma", "model.clip is a pair of whole models"),
        ("dual", "fedotp", "patches, which have no features of their own"),
        ("siglip", "fedotp", "patches, which have no features of their own"),
    ],
)
def test_what_cannot_be_is_one_sentence(name, method, says, folders) -> None:
    with pytest.raises(ExperimentError, match=says):
        adapted(folders[name], method)


def test_another_kind_of_model_is_named(tmp_path) -> None:
    ViTModel(ViTConfig(**VISION, image_size=SIDE, patch_size=8)).save_pretrained(tmp_path)
    with pytest.raises(
        ExperimentError, match="is a vit model; name one of the kinds clip, siglip, vision-text"
    ):
        load_clip_checkpoint(tmp_path)
