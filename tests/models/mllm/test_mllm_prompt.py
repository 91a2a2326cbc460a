import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.data.sample import Sample
from fedloom.models.mllm.prompt import (
    AFTER,
    ASSISTANT,
    GAP,
    GAP_TEXT,
    HUMAN,
    START,
    PromptConfig,
    assemble,
    before_and_gap,
)
from fedloom.models.pretraining.bpe_tokenizer import PHRASES, train_tokenizer

BOS, EOS = 1000, 1001
BEFORE = f"{START} {HUMAN}"


def letters(text: str) -> list[int]:
    """A tokenizer whose ids can be read: code points."""
    return [ord(c) for c in text]


def build(modalities, config=None, question="q?", answer="yes", limit=512, combine="concat"):
    return assemble(
        config or PromptConfig(),
        letters,
        Sample("a", dict.fromkeys(modalities, torch.zeros(1)), question, answer).conversation,
        bos=BOS,
        eos=EOS,
        limit=limit,
        combine=combine,
    )


def readable(run):
    return run if isinstance(run, str) else "".join({BOS: "«", EOS: "»"}.get(i) or chr(i) for i in run)


TAIL = f" q? {AFTER}{ASSISTANT}"

GOLDEN = [
    ("names", [], [f"«{BEFORE} {GAP_TEXT}{TAIL}"]),
    ("names", ["image"], [f"«{BEFORE} <image>", "image", f"</image> {GAP}{TAIL}"]),
    (
        "names",
        ["audio", "image"],
        [f"«{BEFORE} <image,audio>", "image", "audio", f"</image,audio> {GAP}{TAIL}"],
    ),
    ("literal", ["audio"], [f"«{BEFORE} <modality>", "audio", f"</modality> {GAP}{TAIL}"]),
    ("literal", ["image", "audio"], [f"«{BEFORE} <modality>", "image", "audio", f"</modality> {GAP}{TAIL}"]),
    ("literal", [], [f"«{BEFORE} {GAP_TEXT}{TAIL}"]),
    ("pandagpt", ["audio"], [f"«{BEFORE} <Img>", "audio", f"</Img> {GAP}{TAIL}"]),
    ("pandagpt", ["image", "audio"], [f"«{BEFORE} <Img>", "image", "audio", f"</Img> {GAP}{TAIL}"]),
    ("pandagpt", [], [f"«{BEFORE} {GAP_TEXT}{TAIL}"]),
    ("per_modality", ["imu"], [f"«{BEFORE} <imu>", "imu", f"</imu> {GAP}{TAIL}"]),
    (
        "per_modality",
        ["image", "audio"],
        [f"«{BEFORE} <image>", "image", "</image> <audio>", "audio", f"</audio> {GAP}{TAIL}"],
    ),
    ("per_modality", [], [f"«{BEFORE} {GAP_TEXT}{TAIL}"]),
]


@pytest.mark.parametrize(("tags", "modalities", "want"), GOLDEN)
def test_golden_sequences(tags, modalities, want) -> None:
    pieces = build(modalities, PromptConfig(tags=tags))
    assert [readable(run) for run in pieces.prompt] == want
    assert readable(pieces.answer) == " yes»"
    assert not pieces.truncated


def test_options_of_text() -> None:
    paper = PromptConfig(close="paper", joiner="", assistant="", stop="\n###", text_only="tags")
    pieces = build(["image"], paper)
    assert [readable(run) for run in pieces.prompt] == [
        f"«{START}{HUMAN}<image>",
        "image",
        f"\\<image>{GAP}q?{AFTER}",
    ]
    assert readable(pieces.answer) == "yes\n###"
    (run,) = build([], paper).prompt
    assert readable(run) == f"«{START}{HUMAN}<text>\\<text>{GAP}q?{AFTER}"


def test_summed_modalities_share_one_slot() -> None:
    for tags in ("names", "per_modality"):
        pieces = build(["image", "audio"], PromptConfig(tags=tags), combine="sum")
        assert [readable(r) for r in pieces.prompt][:2] == [f"«{BEFORE} <image,audio>", "image+audio"]


def test_pieces_are_tokenised_apart() -> None:
    seen: list[str] = []

    def spy(text):
        seen.append(text)
        return letters(text)

    asked = Sample("a", {"image": torch.zeros(1)}, "q?", "yes").conversation
    assemble(PromptConfig(), spy, asked, bos=None, eos=EOS, limit=512)
    assert seen == [f"{BEFORE} <image>", f"</image> {GAP}", " q?", f" {AFTER}", ASSISTANT, " yes"]


@given(st.text(max_size=40), st.text(max_size=12), st.integers(1, 400))
def test_truncation_spares_soft_tokens_and_marker(question, answer, limit) -> None:
    full = build(["image"], question=question, answer=answer, limit=10_000)
    cut = build(["image"], question=question, answer=answer, limit=limit)
    frame = build(["image"], question="", answer="", limit=10_000).text_tokens - 1
    assert cut.truncated == (full.text_tokens > limit)
    assert cut.text_tokens <= max(limit, frame + 1)
    assert cut.prompt[:2] == full.prompt[:2]
    assert readable(cut.prompt[2]).endswith(f" {AFTER}{ASSISTANT}")
    assert full.answer[: len(cut.answer)] == cut.answer
    kept = len(cut.prompt[2])
    assert kept < len(full.prompt[2]) or cut.answer == full.answer or full.text_tokens > limit


def test_question_is_cut_from_its_end_before_the_answer() -> None:
    full = build(["image"], question="abcdef")
    cut = build(["image"], question="abcdef", limit=full.text_tokens - 2)
    assert readable(cut.prompt[2]) == f"</image> {GAP} abcd {AFTER}{ASSISTANT}"
    assert readable(cut.answer) == " yes»"


def test_an_answer_without_room_loses_its_stop() -> None:
    full = build(["image"], question="abcdef", answer="yes")
    cut = build(["image"], question="abcdef", answer="yes", limit=full.text_tokens - 7 - 2)
    assert readable(cut.answer) == " ye"


def test_text_before_the_question_alternates() -> None:
    parts = before_and_gap(PromptConfig(), ["image", "audio", "imu"], "concat")
    assert parts[1::2] == ["image", "audio", "imu"]
    assert parts[2:5:2] == ["", ""]


class TestTokenizer:
    words = ("red", "striped", "circle")

    @pytest.fixture(scope="class")
    def tokenizer(self):
        return train_tokenizer(["what colour is the red striped circle?"], self.words)

    @given(text=st.text(max_size=60))
    def test_any_text_round_trips(self, tokenizer, text) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text

    def test_words_and_phrases_are_single_tokens(self, tokenizer) -> None:
        for text in (*(f" {w}" for w in self.words), *PHRASES):
            assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text

    def test_training_is_deterministic(self, tokenizer) -> None:
        again = train_tokenizer(["what colour is the red striped circle?"], reversed(self.words))
        assert again.get_vocab() == tokenizer.get_vocab()

    def test_too_small_a_vocabulary_is_refused(self) -> None:
        with pytest.raises(ValueError, match="striped"):
            train_tokenizer([], ["striped"], vocab_size=260)

    def test_survives_the_disk(self, tokenizer, tmp_path) -> None:
        from transformers import AutoTokenizer

        tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        text = f"{BEFORE} <image> red ü{ASSISTANT}"
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(
            text, add_special_tokens=False
        )
        assert loaded.eos_token_id == tokenizer.eos_token_id
