"""Clients' own models: an encoder of any Hugging Face architecture, a classifier's head and a projection to the common width."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.streams import stream_seed
from fedloom.data.sample import SAMPLE_RATE, Sample
from fedloom.models.generation.checkpoint import plain
from fedloom.models.image_processing import Pixels, fixed_size, read_pixels
from fedloom.models.own.readers import PictureReader, Reader, SoundReader, TextReader
from fedloom.models.own.tiny import RANDOM, SIDE, TINY, WORDS, shipped_folder
from fedloom.models.plain_tokenizer import PlainTokenizer
from fedloom.models.word_tokenizer import word_tokenizer


@dataclass(frozen=True)
class Architecture:
    """A client model and the reader of its modality."""

    name: str
    modality: str
    net: "ClientNet"
    read: Reader
    processor: Any = None
    """Tokenizer or feature extractor, to be saved beside the encoder; None for pictures."""


class ClientNet(nn.Module):
    """f, h and q of specification fedmmkt 2: encoder, classifier's head, projection to width d with unit norm."""

    def __init__(self, encoder: nn.Module, width: int, classes: int, common: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)
        self.projection = nn.Linear(width, common)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and unit representations (B, d)."""
        state = self.encoder(**inputs).last_hidden_state
        # A feature map of a convolutional encoder, or a sequence whose first token represents the input.
        pooled = state.mean((2, 3)) if state.ndim == 4 else state[:, 0]
        return self.head(pooled), normalize(self.projection(pooled), dim=-1)


def load_architecture(
    name: str, modality: str, classes: int, common: int, words: Sequence[str], seed: int
) -> Architecture:
    """The model of this name for clients of a modality; weights without a checkpoint come from the seed's stream.

    `words` is the vocabulary of random text encoders. Raises ExperimentError for a missing model or one of another modality.
    """
    tiny, folder = name.removesuffix(RANDOM), shipped_folder(name)
    if tiny in TINY:
        _check_modality(tiny, modality)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "architecture", tiny))
        if tiny in TINY and folder is None:
            encoder, read, processor = _random(tiny, words)
        else:
            encoder, read, processor = _checkpoint(str(folder or name), modality)
        width = _width(encoder.config)
        net = ClientNet(encoder, width, classes, common)
    return Architecture(name, modality, net.float().eval(), read, processor)


def _check_modality(name: str, modality: str) -> None:
    """Raise ExperimentError where a tiny architecture is of another modality."""
    own = TINY[name]()[0]
    if own != modality:
        raise ExperimentError(
            f"model.architectures: {name} is for clients that hold {own}, not {modality}; "
            f"take one of {', '.join(n for n, make in TINY.items() if make()[0] == modality)}"
        )


def _random(name: str, words: Sequence[str]) -> tuple[Any, Reader, Any]:
    """A tiny encoder with weights from torch's global generator."""
    from transformers import ASTFeatureExtractor, AutoModel

    modality, config = TINY[name]()
    if modality == "text":
        tokenizer = bert_tokenizer(words)
        config.vocab_size = len(tokenizer)
        return AutoModel.from_config(config), TextReader(PlainTokenizer(tokenizer), WORDS), tokenizer
    if modality == "audio":
        extractor = ASTFeatureExtractor(
            num_mel_bins=config.num_mel_bins, max_length=config.max_length, sampling_rate=SAMPLE_RATE
        )
        return AutoModel.from_config(config), SoundReader(extractor), extractor
    pixels = Pixels((SIDE, SIDE), None, mean=(0.5,) * 3, std=(0.5,) * 3)
    return AutoModel.from_config(config), PictureReader(pixels), None


def _checkpoint(name: str, modality: str) -> tuple[Any, Reader, Any]:
    from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

    try:
        with quiet_hf():
            encoder = AutoModel.from_pretrained(name, dtype=torch.float32)
        if modality == "image":
            pixels = read_pixels(name, "model.architectures")
            _check_size(name, pixels, getattr(encoder.config, "image_size", None))
            return encoder, PictureReader(pixels), None
        if modality == "audio":
            extractor = AutoFeatureExtractor.from_pretrained(name)
            return encoder, SoundReader(extractor), extractor
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, SafetensorError, ValueError) as error:
        raise ExperimentError(
            f"model.architectures: {name} is none of {', '.join(TINY)}, and no Hugging Face model either: {reason(error)}"
        ) from error
    return encoder, TextReader(PlainTokenizer(tokenizer), min(tokenizer.model_max_length, 128)), tokenizer


def _check_size(name: str, pixels: Pixels, side: Any) -> None:
    """Raise ExperimentError where pictures keep their own shape, or come in another size than the encoder reads."""
    size = fixed_size(pixels, name, "model.architectures")
    wanted = (side, side) if isinstance(side, int) else tuple(side) if side else size
    if size != wanted:
        raise ExperimentError(
            f"model.architectures: the processor of {name} gives pictures of {size[0]} x {size[1]} pixels, and its model "
            f"reads {wanted[0]} x {wanted[1]}; mend the size in its preprocessor_config.json"
        )


def _width(config: Any) -> int:
    """The width of an encoder's states."""
    sizes = getattr(config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else config.hidden_size)


def bert_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer of whole words, lower case, with [PAD], [UNK], [CLS] and [SEP]."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    entries = [*special.values(), *sorted(set(words))]
    return word_tokenizer(entries, special, single="[CLS] $A [SEP]", model_max_length=WORDS)


def raw_input(sample: Sample, modality: str) -> Any:
    """The input of a client with this modality: the sample's picture, waveform or text."""
    return sample.question if modality == "text" else sample.modalities[modality]


def save_architecture(architecture: Architecture, tensors: dict[str, Tensor], folder: Path) -> None:
    """`encoder/`, which plain transformers loads, and `classifier.safetensors` with head and projection."""
    from safetensors.torch import save_file

    net = architecture.net
    encoder = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    with quiet_hf():
        net.encoder.save_pretrained(folder / "encoder", state_dict=encoder)  # type: ignore[operator]
        if architecture.processor is not None:
            plain(architecture.processor)
            architecture.processor.save_pretrained(folder / "encoder")
    rest = {n: t.contiguous() for n, t in tensors.items() if not n.startswith("encoder.")}
    save_file(rest, folder / "classifier.safetensors")
