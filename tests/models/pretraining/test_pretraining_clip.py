"""The tiny CLIP: a build that can be repeated bit for bit, and what the shipped one knows."""

import torch
from transformers import AutoTokenizer, CLIPModel

from fedloom.data.tabletop import PUBLIC_STYLES
from fedloom.data.tabletop.objects import COMBINATIONS, NOVEL_COMBINATIONS, class_name
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.image_processing import Pixels
from fedloom.models.pretraining import clip as build_clip
from fedloom.models.pretraining.augment import vary_light


def test_a_build_is_reproducible_and_measures_what_it_wrote(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build_clip, "PRIVATE_STYLES", ("fog",))
    monkeypatch.setattr(build_clip, "PUBLIC_STYLES", ("wood",))
    settings = {"seed": 3, "steps": 5, "pictures": 1, "batch": 12, "checks": 1}
    metrics = build_clip.build(tmp_path / "a", log=lambda line: None, **settings)
    state = torch.get_rng_state()
    build_clip.build(tmp_path / "b", log=lambda line: None, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert {
        "public/seen",
        "public-styles/novel",
        "private/novel/fog",
        "private/seen",
        "seconds",
    } <= metrics.keys()
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    expected = [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert names == expected
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_shipped_one_loads_in_transformers_and_knows_combinations_that_it_never_saw() -> None:
    clip = CLIPModel.from_pretrained(build_clip.FOLDER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(build_clip.FOLDER)
    assert sum(p.numel() for p in clip.parameters()) < 1_000_000
    assert sum(p.stat().st_size for p in build_clip.FOLDER.iterdir()) < 5_000_000
    towers, pixels = load_clip_checkpoint("tiny-clip")
    assert pixels == Pixels.of(build_clip.PREPROCESSOR)
    known = tokenizer([class_name(c) for c in COMBINATIONS])["input_ids"]
    assert {len(ids) for ids in known} == {5}  # a token for each word, start and end
    for name in ("an otter", "Ångström"):
        assert (
            tokenizer.decode(tokenizer(name)["input_ids"], skip_special_tokens=True).strip() == name.lower()
        )
    accuracy = build_clip.accuracy(towers, 0, "private", NOVEL_COMBINATIONS, PUBLIC_STYLES[:2], 1)
    assert accuracy > 20 / len(NOVEL_COMBINATIONS)  # chance is 1 in 36


def test_light_varies_picture_by_picture_and_sometimes_not_at_all() -> None:
    images = torch.full((60, 3, 6, 5), 100, dtype=torch.uint8)
    images[:, :, :3] = 180
    varied = vary_light(images, torch.Generator().manual_seed(0))
    same = [torch.equal(a, b) for a, b in zip(images, varied, strict=True)]
    assert 10 < sum(same) < 30
    assert varied.dtype == torch.uint8
    assert len({int(v.float().mean()) for v in varied}) > 15
    assert torch.equal(varied, vary_light(images, torch.Generator().manual_seed(0)))
