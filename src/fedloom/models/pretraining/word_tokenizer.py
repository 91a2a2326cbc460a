"""A word-level tokenizer for the Tabletop world's closed vocabulary, with RoBERTa's special tokens and pair layout."""

from typing import Any

from fedloom.data.tabletop import VOCABULARY

BOS, PAD, EOS, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
MARKS = (".", "?", ",")


def word_tokenizer(max_length: int = 128) -> Any:
    """A fast tokenizer: `<s> first </s>`, or `<s> first </s> </s> second </s>`; one token per word or mark, lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = [BOS, PAD, EOS, UNKNOWN, *MARKS, *VOCABULARY, MASK]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(entries)}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {EOS} $B {EOS}",
        special_tokens=[(BOS, 0), (EOS, 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        cls_token=BOS,
        eos_token=EOS,
        sep_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        mask_token=MASK,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
