"""Tiny architectures for two cores: their configurations, and the names of the pre-trained and of the random ones.

`tiny-resnet`, `tiny-vit`, `tiny-bert` and `tiny-distilbert` are shipped, pre-trained to name facts of printed digits;
`tiny-resnet-random` is the same architecture with weights from the run's seed. `tiny-ast` is random under both names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 16
"""Side of the tiny picture encoders' input, in pixels."""
WORDS = 48
"""Largest number of tokens of the tiny text encoders."""
RANDOM = "-random"
"""Ending of the names of architectures with random weights."""
SHIPPED = Path(__file__).parents[1] / "shipped"


def _bit() -> tuple[str, Any]:
    from transformers import BitConfig

    return "image", BitConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4, global_padding="same"
    )


def _vit() -> tuple[str, Any]:
    from transformers import ViTConfig

    size = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    return "image", ViTConfig(image_size=SIDE, patch_size=4, **size, **_NO_DROPOUT)


def _bert() -> tuple[str, Any]:
    from transformers import BertConfig

    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return "text", BertConfig(max_position_embeddings=WORDS, **size, **_NO_DROPOUT)


def _distilbert() -> tuple[str, Any]:
    from transformers import DistilBertConfig

    return "text", DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=WORDS, dropout=0.0
    )


def _ast() -> tuple[str, Any]:
    from transformers import ASTConfig

    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    patches = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4}
    return "audio", ASTConfig(max_length=12, num_mel_bins=16, **patches, **size, **_NO_DROPOUT)


_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TINY: dict[str, Callable[[], tuple[str, Any]]] = {
    "tiny-resnet": _bit,
    "tiny-vit": _vit,
    "tiny-bert": _bert,
    "tiny-distilbert": _distilbert,
    "tiny-ast": _ast,
}
"""Modality and configuration by name; every other name is a Hugging Face id or folder."""


def shipped_folder(name: str) -> Path | None:
    """The folder of a pre-trained tiny encoder; None for a random one, and for any other name."""
    folder = SHIPPED / name
    return folder if name in TINY and folder.is_dir() else None
