"""The tiny RoBERTa's lessons, and that a build can be repeated bit for bit."""

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from fedloom.data.tabletop import VOCABULARY, Tabletop
from fedloom.models.pretraining import roberta as build_roberta
from fedloom.models.pretraining.recipe import HELD_OUT
from fedloom.models.pretraining.sentences import KINDS, MASKED, TELLING, VERDICTS, Masks, encode, tell


def test_a_build_is_reproducible_and_measures_what_it_wrote(tmp_path) -> None:
    settings = {"seed": 3, "steps": 4, "scenes": 20, "batch": 6, "checks": 10}
    metrics = build_roberta.build(tmp_path / "a", log=lambda line: None, **settings)
    state = torch.get_rng_state()
    build_roberta.build(tmp_path / "b", log=lambda line: None, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert metrics.keys() == {f"{s}/{k}" for s in ("public", "private") for k in MASKED} | {"seconds"}
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_shipped_one_fills_gaps_by_looking_at_the_other_sentence() -> None:
    model = AutoModelForMaskedLM.from_pretrained(build_roberta.FOLDER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(build_roberta.FOLDER)
    texts = [tell(Tabletop(0), "private", HELD_OUT + i, "repeated") for i in range(100)]
    assert build_roberta.filled(model, tokenizer, texts, 0) > 0.8


def test_the_tokenizer_knows_every_word_and_survives_its_folder(tmp_path) -> None:
    tokenizer = build_roberta.roberta_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    for again in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = again(" ".join(VOCABULARY))["input_ids"]
        assert len(ids) == len(VOCABULARY) + 2
        assert again.unk_token_id not in ids
        pair = again("A small ball?", "zebra")["input_ids"]
        assert again.convert_ids_to_tokens(pair) == [
            "<s>", "a", "small", "ball", "?", "</s>", "</s>", "<unk>", "</s>"
        ]  # fmt: skip


def test_told_pairs_are_public_and_their_verdicts_true() -> None:
    world = Tabletop(0)
    assert set(KINDS) == {"caption", *VERDICTS}
    for index in range(20):
        first, second = tell(world, "public", index, "repeated")
        assert tell(world, "public", index, "caption") == (first, None)
        assert tell(world, "public", index, "changed")[0] == first
        assert sorted(first.split()) == sorted(second.split())
        assert sorted(first.split()) != sorted(tell(world, "public", index, "changed")[1].split())
        _, _, _, value = tell(world, "public", index, "entailment")[1].split()
        assert value in first


def test_masks_hide_telling_words_alone() -> None:
    tokenizer = build_roberta.roberta_tokenizer()
    ids = encode(tokenizer, [tell(Tabletop(0), "public", i, "repeated") for i in range(40)])
    shown, hidden = Masks.of(tokenizer, torch.Generator().manual_seed(0)).hide(ids, 0.5)
    chosen = hidden != -100
    assert torch.equal(hidden[chosen], ids[chosen])
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert set(tokenizer.convert_ids_to_tokens(hidden[chosen].tolist())) <= set(TELLING)
    assert (
        0.4
        < chosen.sum() / torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(TELLING)))).sum()
        < 0.6
    )
    assert 0.4 < (shown[chosen] == tokenizer.mask_token_id).float().mean() < 0.6
