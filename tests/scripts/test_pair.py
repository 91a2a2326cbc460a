"""The pair of real towers and the categories of stamps, at a tiny size."""

import json

import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, VisionTextDualEncoderModel

from fedloom.models.clip.checkpoint import load_clip_checkpoint
from scripts.offline import align_pair, stamp_classes
from tests.models.clip.tiny_clip import PREPROCESSOR
from tests.models.clip.tiny_pairs import LANGUAGE, PICTURE
from tests.models.clip.tiny_pairs import tokenizer as tiny_tokenizer


@pytest.fixture
def stamps(tmp_path):
    def put(folder, name, caption, colour):
        place = tmp_path / "stamps" / folder
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 6), (colour, 0, 0, 128)).save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"{caption}\nde.utf8=Etwas.\n", encoding="utf-8")

    for folder, category in stamp_classes.CATEGORIES.items():
        for number in range(20):
            put(f"{folder}/below", f"{number}", f"A {category} {'abcdefghij'[number % 10]}.", number)
    put("vehicles", "car", "a car", 0)
    put("symbols/letters", "x", "the letter x", 0)
    put("animals/cats", "cat", "A bird a", 0)  # the caption of a bird, which may be a client's
    return tmp_path / "stamps"


def test_no_caption_is_on_both_sides_and_symbols_are_on_none(stamps) -> None:
    private, public = stamp_classes.divided(stamps)
    assert stamp_classes.divided(stamps) == (private, public)
    words = {p: stamp_classes.plain(w) for p, w in stamp_classes.captioned(stamps)}
    assert len(private) == 16 * 10
    assert {c for _, c in private} == set(stamp_classes.CATEGORIES.values())
    held = {words[p] for p, _ in private}
    assert held.isdisjoint(words[p] for p, _ in public)
    assert "a car" in {w for _, w in public}
    assert not any("symbols" in p.parts for p, _ in (*private, *public))
    assert len(public) == len(words) - len(private) - ("a bird a" in held)


def test_ridge_and_ranks_by_hand() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, 0.0], [4.0, 1.0]])
    torch.testing.assert_close(align_pair.ridge(x, y, 5.0), torch.tensor([[1.0], [0.2]]))  # 10/10, 2/10
    similar = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.3, 0.4, 0.35]])
    assert align_pair.ranks(similar, (1, 2, 3)) == pytest.approx([1 / 3, 2 / 3, 1.0])
    direction = torch.tensor([0.0, 2.0])
    assert align_pair.without(direction, torch.tensor([[3.0, 5.0]])).tolist() == [[1.0, 0.0]]


def test_a_pair_is_written_alike_twice_and_read_by_fedloom_as_it_was_aligned(stamps, tmp_path) -> None:
    stamp_classes.make(stamps, tmp_path / "classes")
    picture, language = PICTURE | {"image_size": 32}, LANGUAGE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision, text = Dinov2Model(Dinov2Config(**picture)), BertModel(BertConfig(**language))
    read = tiny_tokenizer()
    read.add_special_tokens({"cls_token": "<start>", "sep_token": "<end>", "pad_token": "<pad>"})
    ends = [("<start>", read.cls_token_id), ("<end>", read.sep_token_id)]
    read.backend_tokenizer.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    vision.save_pretrained(tmp_path / "vision")
    sizes = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    (tmp_path / "vision" / "preprocessor_config.json").write_text(
        json.dumps({**PREPROCESSOR, **sizes, "image_processor_type": "BitImageProcessor"}), encoding="utf-8"
    )
    text.save_pretrained(tmp_path / "text")
    read.save_pretrained(tmp_path / "text")
    for name in ("one", "two"):
        places = [str(tmp_path / n) for n in ("vision", "text")]
        said = align_pair.make(*places, tmp_path / "classes" / "public", tmp_path / name, side=16)
        assert "held out" in said
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()
    towers, pixels = load_clip_checkpoint(tmp_path / "one")
    assert (towers.in_blocks, towers.patches) == (True, 4)
    assert pixels.sized(torch.zeros(3, 20, 30, dtype=torch.uint8)).shape == (3, 16, 16)
    plain = VisionTextDualEncoderModel.from_pretrained(tmp_path / "one").eval()
    texts = ["a photo of a red ball", "a star"]
    with torch.no_grad():
        pooled, _ = align_pair.text_states(plain.text_model, towers.tokenizer, texts)
        want = normalize(plain.text_projection(pooled), dim=-1)
        tokens = towers.tokens(texts)
        got = towers.text_features(towers.embed(tokens.ids), tokens.end)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
