"""SigLIP and VisionTextDualEncoderModel as `model.clip`: the features of plain transformers, and methods trained on them."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import SiglipModel, VisionTextDualEncoderModel, ViTConfig, ViTModel

from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.image_processing import Pixels
from tests.models.clip.tiny_clip import CLASSES, PREPROCESSOR, SIDE, VISION, quick_settings, sample, write
from tests.models.clip.tiny_pairs import PAIRS, write_other


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    return {name: write_other(name, root / name) for name in ("siglip", *PAIRS)}


def adapted(folder, method="promptfl"):
    towers, pixels = load_clip_checkpoint(folder)
    return AdaptedCLIP(towers, pixels, CLASSES, METHODS[method]().clip_adapter, seed=0)


@pytest.mark.parametrize("name", ["siglip", *PAIRS])
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


@pytest.mark.parametrize("name", ["siglip", *PAIRS])
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


@pytest.mark.parametrize("name", ["siglip", *PAIRS])
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


@pytest.mark.parametrize("name", ["siglip", "vit-bert", "dinov2-roberta", "clip-bert"])
def test_the_multimodal_adapter_trains_inside_both_towers_in_a_cohort_as_alone(
    name, folders, tmp_path, federate
) -> None:
    from fedloom.experiment.settings import Experiment

    settings = quick_settings(write(tmp_path), 2)
    settings |= {
        "method": {"name": "pfedmma", "blocks": 2, "rank": 4},
        "model": {"clip": str(folders[name])},
    }
    runs = []
    for cohort in ("off", 2):
        run = federate(Experiment.parse({**settings, "engine": {"cohort": cohort}}))
        run.run()
        runs.append(run)
    one, other = (r.state.shared for r in runs)
    assert all((t - runs[0].engine.model.start[n]).abs().max() > 0 for n, t in one.items())
    for tensor in one:
        torch.testing.assert_close(one[tensor], other[tensor], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "method", "says"),
    [
        ("beit-bert", "pfedmma", "a model of this model.clip runs as a whole"),
        ("beit-bert", "fedotp", "patches, which have no features of their own"),
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
