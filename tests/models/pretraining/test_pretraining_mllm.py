import itertools
import json

import pytest
import torch

from fedloom.data.sample import Sample
from fedloom.data.tabletop import VOCABULARY, Tabletop
from fedloom.models.mllm.mllm import MLLM
from fedloom.models.mllm.prompt import PromptConfig
from fedloom.models.pretraining import mllm as build_mllm
from fedloom.models.pretraining.augment import vary_sound
from fedloom.models.pretraining.recipe import HELD_OUT, rate
from fedloom.models.pretraining.word_readout import Readout, align

FOLDER = build_mllm.FOLDER


def test_a_build_is_reproducible_and_measures_what_it_wrote(tmp_path) -> None:
    lines: list[str] = []
    settings = {"seed": 3, "steps": 20, "scenes": 6, "batch": 4, "checks": 3}
    metrics = build_mllm.build(tmp_path / "a", log=lines.append, **settings)
    state = torch.get_rng_state()
    build_mllm.build(tmp_path / "b", log=lines.append, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert {f"{s}/{k}" for s in ("public", "private") for k in build_mllm.KINDS} < metrics.keys()
    names = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(names) > 6
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    model = MLLM.from_pretrained(tmp_path / "a")
    world = Tabletop(3)
    examples = [model.prepare(world.sample("private", i, "image")) for i in range(8)]
    right = sum(a == e.reference for a, e in zip(model.generate(examples), examples, strict=True))
    assert build_mllm.exact(model, examples, batch=3) == right / 8


def test_pool_keeps_one_copy_of_each_input() -> None:
    world = Tabletop(0)
    pool = build_mllm.prepare_pool(build_mllm.fresh_model(world, 0), world, 2)
    assert [len(v) for v in pool.values()] == [2] * 6
    assert pool["image"][1].inputs["image"] is pool["caption"][1].inputs["image"]
    assert pool["audio"][0].inputs["audio"] is pool["image+audio"][0].inputs["audio"]
    assert pool["text"][0].inputs == {}


def test_rate_warms_up_rests_and_falls() -> None:
    rates = [rate(s, 1000) for s in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == 1.0
    assert rates[599] == 1.0
    assert 0.03 < rates[-1] < 0.04
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))


def test_align_teaches_a_trunk_its_words() -> None:
    world = Tabletop(0)
    model = build_mllm.fresh_model(world, 0)
    examples = build_mllm.prepare_pool(model, world, 8, ["transcript"])["transcript"]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    lines: list[str] = []
    align(model, "audio", examples, 0, 100, 8, 3e-3, lambda step, steps: 1.0, lines.append)
    assert "all words right 1.00" in lines[-1]
    changed = {
        n.split(".")[0] + "." + n.split(".")[2] for n, p in model.named_parameters() if not p.equal(before[n])
    }
    assert changed == {"encoder.audio"}


def test_readout_is_linear_in_the_features() -> None:
    layer = Readout(5, 3, 7, torch.Generator().manual_seed(0))
    z = torch.randn(2, 5)
    assert layer(z).shape == (2, 3, 7)
    assert torch.allclose(layer(2 * z)[1, 2, 6], 20 * z[1] @ layer.weight[2 * 7 + 6], atol=1e-5)


def test_varied_sound_keeps_shape_and_padding_and_is_seeded() -> None:
    mel = build_mllm.encoder_config().modalities["audio"].mel
    x = torch.randn(3, 1, 1, 64, 128, generator=torch.Generator().manual_seed(0))
    x[..., 90:] = -mel.mean / mel.std
    a, b = (vary_sound(x, mel, torch.Generator().manual_seed(4)) for _ in range(2))
    assert a.shape == x.shape
    assert torch.equal(a, b)
    assert not torch.allclose(a[0, ..., :60], x[0, ..., :60], atol=0.1)
    assert torch.allclose(a[..., 120:], x[..., 120:])
    c = vary_sound(x[:1], mel, torch.Generator().manual_seed(5))
    assert not torch.allclose(a[:1], c)


class TestShipped:
    @pytest.fixture(scope="class")
    def model(self):
        return MLLM.from_pretrained(FOLDER)

    def exact(self, model, split, kind, count=60, change=lambda s: s):
        world = Tabletop(0)
        samples = [world.sample(split, HELD_OUT + 5000 + i, kind) for i in range(count)]
        examples = [model.prepare(change(s)) for s in samples]
        return build_mllm.exact(model, examples, batch=60)

    def test_size_and_format(self) -> None:
        files = [p for p in FOLDER.rglob("*") if p.is_file()]
        assert sum(p.stat().st_size for p in files) < 6e6
        assert {p.suffix for p in files} <= {".json", ".safetensors", ".md"}

    def test_has_the_shape_that_build_makes(self, model) -> None:
        fresh = build_mllm.fresh_model(Tabletop(0), 0)
        assert {n: p.shape for n, p in model.named_parameters()} == {
            n: p.shape for n, p in fresh.named_parameters()
        }
        assert model.tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
        assert model.encoder.modalities == ("image", "audio")
        assert model.config.prompt == PromptConfig()

    def test_every_word_is_one_token(self, model) -> None:
        for word in VOCABULARY:
            assert len(model.tokenizer.encode(f" {word}", add_special_tokens=False)) == 1, word

    @pytest.mark.parametrize("kind", ["image", "audio"])
    def test_knows_the_public_split_and_has_much_to_learn_from_the_private_one(self, model, kind) -> None:
        public, private = self.exact(model, "public", kind), self.exact(model, "private", kind)
        assert public > 0.7
        assert 0.15 < private < public - 0.1

    def test_answers_come_from_the_picture(self, model) -> None:
        """With the picture of another scene the answers are mostly wrong."""
        other = Tabletop(0).sample("public", 77, "image").modalities["image"]

        def swap(s):
            return Sample(s.uid, {"image": other}, s.question, s.answer)

        assert self.exact(model, "public", "image", change=swap) < 0.5

    def test_config_is_readable_json(self) -> None:
        config = json.loads((FOLDER / "mllm.json").read_text())
        assert config["prompt"]["tags"] == "names"
