"""VisionTextDualEncoderModel block by block: adapters, patches, what is read once; every method on other towers, then loaded."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import VisionTextDualEncoderModel

from fedloom.core.errors import ExperimentError
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import finish
from fedloom.experiment.settings import Experiment
from fedloom.methods import METHODS
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.image_processing import Pixels
from tests.models.clip.tiny_clip import CLASSES, PREPROCESSOR, quick_settings, sample, write
from tests.models.clip.tiny_pairs import PAIRS, write_other

IN_BLOCKS = sorted(PAIRS.keys() - {"beit-bert"})
FIRST_NORM = {"vit-bert": "layernorm_before", "dinov2-roberta": "norm1", "clip-bert": "layer_norm1"}
BLOCKS = {"vit-bert": "layers", "dinov2-roberta": "encoder.layer", "clip-bert": "encoder.layers"}
CLIP_METHODS = sorted(name for name, kind in METHODS.items() if issubclass(kind, CLIPMethod))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write(root)
    return root, {name: write_other(name, root / name) for name in (*PAIRS, "siglip")}


def adapted(folder, **settings):
    towers, pixels = load_clip_checkpoint(folder)
    return AdaptedCLIP(towers, pixels, CLASSES, METHODS["pfedmma"](**settings).clip_adapter, seed=0)


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_branch_is_added_to_every_adapted_block_and_to_no_other(name, folders) -> None:
    """Against plain transformers with a hook on each of the last two blocks, for texts of unequal lengths."""
    model = adapted(folders[1][name], blocks=2, rank=4, scale=0.5)
    plain = VisionTextDualEncoderModel.from_pretrained(folders[1][name]).eval()
    part = model.part

    def hooked(tower, place):
        own, shared = part.adapter[tower][place], part.adapter["shared"][place]

        def hook(block, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            x = getattr(block, FIRST_NORM[name])(x) if tower == "vision" else x
            return out + 0.5 * own["up"](torch.relu(shared(torch.relu(own["down"](x)))))

        return hook

    layers = {
        "vision": plain.vision_model.get_submodule(BLOCKS[name]),
        "text": plain.text_model.encoder.layer,
    }
    for tower in layers:
        for place in ("1", "2"):
            layers[tower][-int(place)].register_forward_hook(hooked(tower, place), with_kwargs=True)
    read = model.towers.tokenizer
    texts = [f"a photo of a {c.replace('_', ' ')}." for c in CLASSES.base]
    rows = [
        [read.cls_token_id, *read(t, add_special_tokens=False)["input_ids"], read.sep_token_id] for t in texts
    ]
    length = max(map(len, rows))
    assert min(map(len, rows)) < length
    ids = torch.tensor([row + [read.pad_token_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    pixels = Pixels.of(PREPROCESSOR).normal(torch.stack([e.image for e in examples]))
    with torch.no_grad():
        text = plain.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        image = plain.get_image_features(pixel_values=pixels).pooler_output
        want = plain.logit_scale.exp() * normalize(image, dim=-1) @ normalize(text, dim=-1).T
        got = model.logits(examples, None, "base")
        without = adapted(folders[1][name], blocks=2, rank=4, scale=0).logits(examples, None, "base")
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert (got - without).abs().max() > 1e-2


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_pictures_and_texts_pass_the_frozen_blocks_once(name, folders) -> None:
    model = adapted(folders[1][name], blocks=1)
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    calls = {"text": 0, "vision": 0}
    for tower in calls:
        first = model.towers._blocks(tower)[0]
        first.register_forward_hook(lambda *told, t=tower: calls.__setitem__(t, calls[t] + 1))
    model.store = FeatureCache(constant=True, limit=10**6)
    for bias in (0.0, 0.1):
        model.load({n: t + bias for n, t in model.start.items()})
        model.logits(examples, model.kept_features(model.feature_version(), "a", range(5), examples), "base")
    assert calls == {"text": 1, "vision": 1}


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_patches_are_read_as_the_class_token_is(name, folders) -> None:
    towers, _ = load_clip_checkpoint(folders[1][name])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = towers.run("vision", towers.vision_in(pixels))
        patches = towers.vision_out(hidden, patches=True)
        assert patches.shape == (2, towers.patches, towers.width)
        swapped = torch.cat([hidden[:, 3:4], hidden[:, 1:]], dim=1)
        torch.testing.assert_close(patches[:, 2], towers.vision_out(swapped))


@pytest.mark.parametrize("name", ["siglip", "dinov2-roberta", "beit-bert"])
@pytest.mark.parametrize("method", CLIP_METHODS)
def test_every_method_runs_on_other_towers_and_is_loaded_again(name, method, folders, federate) -> None:
    root, others = folders
    told = (
        {"name": method, "heads": 5} if (name, method) == ("siglip", "pfedmoap") else method
    )  # its width is 20
    settings = {**quick_settings(root, 2), "method": told, "model": {"clip": str(others[name])}}
    experiment = Experiment.parse({**settings, "rounds": int(method != "zero-shot")})
    towers, _ = load_clip_checkpoint(others[name])
    if (method == "fedotp" and not towers.has_patches) or (
        method in ("pfedmma", "mma") and not towers.in_blocks
    ):
        with pytest.raises(ExperimentError, match=r"model\.clip"):
            federate(experiment)
        return
    federation = federate(experiment, "saved")
    federation.folder.write_experiment(experiment.as_dict())
    federation.run()
    finish(federation)
    model, examples = federation.engine.model, federation.evaluator.tests.examples
    client = None if federation.global_model() else sorted(federation.clients)[-1]
    model.load(
        federation.client_model(federation.clients[client]).tensors if client else federation.global_model()
    )
    with torch.no_grad():
        wanted = model.logits(examples, None, "base")
        assert wanted.isfinite().all()
        assert torch.equal(load(federation.folder.path, client).logits(examples, None, "base"), wanted)
        model.load({})
        assert torch.equal(model.logits(examples, None, "base"), wanted) == (method == "zero-shot")
