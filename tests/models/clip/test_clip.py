"""CLIP under our hands: what transformers computes, nothing kept too long, and a model that nobody changes."""

import json
import pickle

import pytest
import torch

from fedloom.core.activity import told_to
from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.methods import METHODS
from fedloom.models.clip.adapter import Who
from fedloom.models.clip.checkpoint import load_clip_checkpoint, read_adapter
from fedloom.models.clip.reading import PictureReading
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.image_processing import Pixels
from fedloom.models.loading.reading import reading_key
from tests.models.clip.tiny_clip import CLASSES, PREPROCESSOR, SIDE, adapted, sample, towers

ON_CLIP = ("zero-shot", "promptfl", "cocoop-fedavg", "fedpgp", "fedotp", "pfedmoap", "pfedmma")


def logits(model, examples, kind="base"):
    with torch.no_grad():
        return model.logits(examples, None, kind)


def test_zero_shot_is_what_transformers_computes() -> None:
    model = adapted(METHODS["zero-shot"](), dtype=torch.float64)
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in CLASSES.base]
    token_ids = model.towers.tokenizer(texts)["input_ids"]
    start, end = model.towers.tokenizer.bos_token_id, model.towers.tokenizer.eos_token_id
    ids = torch.tensor(
        [[start, *row] + [end] * (29 - len(row)) for row in token_ids]
    )  # padded to all positions
    pixels = model.pixels.normal(torch.stack([e.image for e in examples])).double()
    with torch.no_grad():
        expected = model.towers.clip(input_ids=ids, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(logits(model, examples), expected, rtol=1e-10, atol=1e-10)


def test_pictures_are_prepared_as_transformers_does_it() -> None:
    pil = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    config = {**PREPROCESSOR, "size": {"shortest_edge": 20}}
    theirs = pil.CLIPImageProcessorPil(**config)
    pixels = Pixels.of(config)
    draw = torch.Generator().manual_seed(0)
    for shape in ((3, 48, 31), (3, 17, 40), (3, 20, 20)):
        image = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        expected = theirs(image.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels.normal(pixels.sized(image)[None]), expected, rtol=1e-5, atol=1e-5)
    assert Pixels.of({"size": 224}).sized(image).shape == (3, 224, 224)
    sides = {"size": {"height": 8, "width": 6}, "do_center_crop": False}
    assert Pixels.of(sides).sized(image).shape == (3, 8, 6)


@pytest.mark.parametrize("method", ["pfedmma", "mma"])
@pytest.mark.parametrize("off", [{"scale": 0.0}, {"init_up": "zero", "scale": 0.7, "bias": True}])
def test_14_without_weight_or_without_u_it_is_zero_shot(method, off) -> None:
    on = towers(dtype=torch.float64)
    model = adapted(METHODS[method](**off, blocks=2, rank=7), dtype=torch.float64, on=on)
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    for kind in ("base", "novel"):
        expected = logits(adapted(METHODS["zero-shot"](), on=on), examples, kind)
        torch.testing.assert_close(logits(model, examples, kind), expected, rtol=1e-12, atol=1e-12)
        moved = logits(adapted(METHODS[method](blocks=2, rank=7, scale=0.7), on=on), examples, kind)
        assert (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["pfedmma", "promptfl", "fedotp", "fedpgp"])
def test_3_text_features_are_never_older_than_what_made_them(method) -> None:
    model = adapted(METHODS[method](**({"scale": 1.0} if method == "pfedmma" else {})))
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    name = next(n for n in model.tensors if n.startswith(("adapter/text", "prompt")))
    noise = torch.randn(model.start[name].shape, generator=torch.Generator().manual_seed(1))
    clients = [{name: model.start[name] + step * noise} for step in (0.0, 0.3)]
    outputs = []
    for tensors in (*clients, *clients):
        model.load(tensors)
        outputs.append(logits(model, examples))
        assert torch.equal(outputs[-1], logits(model, examples))  # kept
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])
    assert not torch.allclose(outputs[0], outputs[1])
    with torch.no_grad():
        model.tensors[name].add_(0.3 * noise)  # no load: the parameter itself tells
    assert not torch.allclose(logits(model, examples), outputs[3])
    assert logits(model, examples, "novel").shape == (5, 3)
    model.load(clients[0])
    assert torch.equal(logits(model, examples), outputs[0])


def test_what_is_frozen_is_read_once(monkeypatch) -> None:
    model = adapted(METHODS["pfedmma"](blocks=2))
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    ran: list[tuple[str, int]] = []
    original = model.towers.run

    def run(tower, hidden, first=0, stop=None, branch=None, end=None):
        ran.append((tower, first, stop))
        return original(tower, hidden, first, stop, branch, end)

    monkeypatch.setattr(model.towers, "run", run)
    model.store = FeatureCache(constant=True, limit=10**6)
    for bias in (0.0, 0.1):
        model.load({n: t + bias for n, t in model.start.items()})
        model.logits(examples, model.kept_features(model.feature_version(), "a", range(5), examples), "base")
    # The frozen blocks and the first adapted one, once for the class list and once for all pictures.
    assert sorted(ran) == [
        *[("text", 0, 1), ("text", 1, 2), *[("text", 2, 2)] * 2],
        *[("vision", 0, 2), ("vision", 2, 3), *[("vision", 3, 3)] * 2],
    ]
    assert model.store.made == 5


def test_several_methods_stand_on_one_clip_and_leave_it_as_it_is() -> None:
    on = towers()
    before = {n: t.clone() for n, t in on.clip.state_dict().items()}
    models = {name: adapted(METHODS[name](), on=on) for name in ON_CLIP}
    examples = [models["promptfl"].prepare(sample(i, i)) for i in range(5)]
    first = {name: logits(model, examples) for name, model in models.items()}
    for model in models.values():
        model.begin(set(model.tensors))
        loss = model.loss(examples)
        if loss.requires_grad:
            loss.backward()
        model.rest()
    assert all(torch.equal(logits(m, examples), first[n]) for n, m in models.items())
    assert all(torch.equal(t, before[n]) for n, t in on.clip.state_dict().items())
    assert all(p.grad is None for p in on.clip.parameters())


def test_an_example_is_judged_in_its_own_list_and_among_what_is_allowed() -> None:
    model = adapted(METHODS["zero-shot"]())
    base = [model.prepare(sample(i, i)) for i in range(5)]
    novel = [model.prepare(sample(i, i, "novel")) for i in range(3)]
    mixed = [base[0], novel[0], base[1], novel[2]]
    apart = [*model.generate([base[0], base[1]], 1), *model.generate([novel[0], novel[2]], 1)]
    assert model.generate(mixed, 1) == [apart[0], apart[2], apart[1], apart[3]]
    only = [model.prepare(sample(i, i, allowed=(i,))) for i in range(5)]
    assert model.score(only) == [(1, 1)] * 5
    two = [model.prepare(sample(i, 0, allowed=(0, 3))) for i in range(6)]
    scores = logits(model, two)
    right = [(1, int(row[0] > row[3])) for row in scores]
    assert model.score(two) == right
    picture = sample(3, 3).modalities["image"]
    assert model.classify(picture) in {*CLASSES.base, *CLASSES.novel}
    assert model.classify(picture) in {*model.generate([model.prepare(sample(3, 3))], 1), *CLASSES.novel}


@pytest.mark.parametrize(
    ("meta", "answer", "says"),
    [
        ({"classes": "base", "label": 1}, "red cube", "labelled 1 and 'red cube'"),
        ({"classes": "base", "label": 9}, "red cube", "labelled 9"),
        ({"label": 0}, "red cube", "is no picture of a class"),
    ],
)
def test_a_sample_of_another_kind_is_refused(meta, answer, says) -> None:
    model = adapted(METHODS["zero-shot"]())
    with pytest.raises(ExperimentError, match=says):
        model.prepare(Sample("x", {"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "", answer, meta))
    nothing = model.prepare(Sample("x", {}, "", "red cube", {"classes": "base", "label": 0}))
    assert model.pixels.normal(nothing.image[None]).abs().max() < 0.02  # the mean colour


KINDS = (
    "Nothing",
    "Context",
    "ConditionalContext",
    "LowRankContext",
    "TwoContexts",
    "Experts",
    "MultimodalAdapter",
)
"""Names in `fedloom.json` of the adapters of ON_CLIP."""


@pytest.mark.parametrize(("method", "kind"), zip(ON_CLIP, KINDS, strict=True))
def test_a_folder_names_its_adapter_and_is_read_back(method, kind, tmp_path) -> None:
    model = adapted(METHODS[method]())
    model.save_adapters(tmp_path)
    file = tmp_path / "fedloom.json"
    listed = json.loads(file.read_text())
    assert listed["attachment"]["type"] == kind
    assert read_adapter(tmp_path) == METHODS[method]().clip_adapter
    assert model.read_adapters(tmp_path).keys() == model.tensors.keys()
    file.write_text(json.dumps(listed | {"attachment": {"type": "Later"}}))
    with pytest.raises(ExperimentError, match="names the adapter Later"):
        read_adapter(tmp_path)


def test_training_on_a_novel_class_is_an_error() -> None:
    model = adapted(METHODS["promptfl"]())
    with pytest.raises(ValueError, match="novel"):
        model.loss([model.prepare(sample(0, 0, "novel"))])


def test_a_name_too_long_and_a_checkpoint_that_is_no_clip_are_told_in_a_sentence(tmp_path) -> None:
    with pytest.raises(ExperimentError, match="shorten the name"):
        towers().tokens(["red " * 40])
    with pytest.raises(ExperimentError, match=r"model\.clip: .* cannot be loaded"):
        load_clip_checkpoint(tmp_path)
    with pytest.raises(ExperimentError, match=r"model\.clip"):
        load_clip_checkpoint("tiny-roberta")


def test_a_class_name_that_spells_the_end_of_text_does_not_end_it() -> None:
    both = towers()
    ids = both.tokens(["red <end> cube"]).ids[0].tolist()
    assert ids.count(both.tokenizer.eos_token_id) == ids.count(both.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("method", ON_CLIP[1:])
def test_two_clients_in_one_batch_have_each_its_own_loss(method) -> None:
    """A cohort's losses with equal tensors are those of each alone."""
    model = adapted(METHODS[method](), dtype=torch.float64)
    examples = [model.prepare(sample(i, i % 5)) for i in range(5)]
    both = model.losses(examples, [0, 0, 2, 2, 2], 3).detach()
    assert both[1] == 0
    for owner, part in ((0, slice(0, 2)), (2, slice(2, 5))):
        torch.testing.assert_close(both[owner], model.loss(examples[part]).detach(), rtol=1e-10, atol=1e-10)
    assert Who.owned([0, 0, 2, 2, 2]).parts == [slice(0, 2), slice(2, 5)]


def test_a_copy_of_the_reading_and_its_key_follow_the_processor() -> None:
    keys = set()
    for side in (SIDE, SIDE + 8):
        pixels = Pixels.of({**PREPROCESSOR, "crop_size": {"height": side, "width": side}})
        reading = PictureReading(pixels)
        copy = pickle.loads(pickle.dumps(reading))
        keys |= {reading_key(reading), reading_key(copy)}
        assert torch.equal(copy(sample(0, 1))["image"], pixels.sized(sample(0, 1).modalities["image"]))
        assert copy(Sample("x", {}, "", "star")) == {}
    assert len(keys) == 2


def test_the_progress_says_when_class_texts_are_read() -> None:
    model, told = adapted(METHODS["pfedmma"](blocks=2)), []
    examples = [model.prepare(sample(i, i)) for i in range(2)]
    with told_to(told.append):
        for _ in range(2):
            logits(model, examples)
    assert told == ["reading 5 class texts"]
