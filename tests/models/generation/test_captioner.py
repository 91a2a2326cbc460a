"""The server's captioner: BLIP as transformers computes it, the same words whatever the batch, and no class names."""

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.models.generation.captioner import Captioner
from fedloom.models.pretraining import captioner as build_captioner
from tests.models.generation.tiny_generation import captioner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return captioner(tmp_path_factory.mktemp("captioner"))


def pictures(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)


def test_embeddings_are_what_transformers_compares(folder) -> None:
    from transformers import BlipForImageTextRetrieval

    model, texts = Captioner.load(folder), ["a seven", "no loop, a roof", "two"]
    f, g = model.embed_pictures(pictures(5), batch=2), model.embed_texts(texts, batch=3)
    plain = BlipForImageTextRetrieval.from_pretrained(folder / "matching")
    ids = model.tokenizer(texts, padding=True, return_tensors="pt")
    pixels = pictures(5).float() / 127.5 - 1
    with torch.no_grad():
        expected = plain(pixel_values=pixels, use_itm_head=False, **ids).itm_score
    torch.testing.assert_close(f @ g.T, expected, rtol=1e-5, atol=1e-5)
    assert f.shape == (5, 10)
    torch.testing.assert_close(f.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(g[1:2], model.embed_texts(texts[1:2]), rtol=1e-5, atol=1e-5)
    assert model.embed_texts([]).shape == model.embed_pictures(pictures(0)).shape == (0, 10)


def test_captions_repeat_whatever_the_batch(folder) -> None:
    model, state = Captioner.load(folder), torch.get_rng_state()
    said = model.caption(pictures(5))
    assert len(said) == 5
    assert said == model.caption(pictures(5), batch=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.caption(pictures(0)) == []


def test_one_that_only_writes_says_so(folder, tmp_path) -> None:
    writer = Captioner.load(folder / "captions")
    assert writer.caption(pictures(2)) == Captioner.load(folder).caption(pictures(2))
    with pytest.raises(ExperimentError, match="no model for embeddings"):
        writer.embed_texts(["a"])
    both = Captioner.load(folder / "captions", matcher=folder / "matching")
    assert both.embed_texts(["a"]).shape == (1, 10)
    with pytest.raises(ExperimentError, match="is no BlipForConditionalGeneration"):
        Captioner.load(folder / "matching")
    with pytest.raises(ExperimentError, match="cannot be loaded"):
        Captioner.load(tmp_path)


def test_a_build_repeats_to_the_bit(tmp_path) -> None:
    settings = {"seed": 3, "steps": 2, "pictures": 12, "batch": 4, "checks": 3}
    metrics = build_captioner.build(tmp_path / "a", log=lambda line: None, **settings)
    state = torch.get_rng_state()
    build_captioner.build(tmp_path / "b", log=lambda line: None, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert {"exact", "phrases", "retrieval", "loss/captions", "loss/matching", "seconds"} == metrics.keys()
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file
