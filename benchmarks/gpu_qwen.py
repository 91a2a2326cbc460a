"""Qwen2.5-VL-3B as a native model with random weights, and the same class in a small size."""

from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.random_weights import Work, draw
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Sample
from fedloom.models.lora.layers import LoRA
from fedloom.models.native.families import FAMILIES
from fedloom.models.native.prompt import NativeExample
from fedloom.models.native.trainable import NativeMLLM

QWEN_3B: dict[str, Any] = {
    "text": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128_000,
        "rms_norm_eps": 1e-6,
        "vocab_size": 151_936,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "ids": (151_655, 151_656, 151_652, 151_653),
    "side": 16,
}
QWEN_SMALL: dict[str, Any] = {
    "text": {
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    },
    "vision": {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_heads": 4,
        "out_hidden_size": 128,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    "ids": (508, 509, 510, 511),
    "side": 4,
}
"""Sizes of Qwen2.5-VL-3B and of a small one; `ids` of picture, video, start and end, `side`: patches along a picture's side."""


class RandomPrompts:
    """Stands in for a processor: pictures of noise in packed patches and random token ids, whatever the sample says."""

    def __init__(self, config: Any, side: int, work: Work) -> None:
        self.family, self.source = FAMILIES["qwen2_5_vl"], "random weights"
        self.config, self.side, self.work = config, side, work
        self.reads, self.placeholders = ("image",), {"image": config.image_token_id}
        self.pad, self.stops = 0, [1]
        self.generator = torch_stream(0, "prompts")

    def prepare(self, sample: Sample) -> NativeExample:
        """One picture of side x side patches, a quarter as many placeholders, and `work.positions` positions in all."""
        config, work = self.config, self.work
        vision = config.vision_config
        patches, merged = self.side**2, vision.spatial_merge_size**2
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        words = work.positions - work.answer - patches // merged - 2
        if words < 1:
            raise SystemExit(f"gpu: {work.positions} positions are too few for a picture and an answer")
        lowest = min(self.config.image_token_id, self.config.vision_start_token_id)
        ids = torch.randint(3, lowest, (words + work.answer,), generator=self.generator)
        picture = torch.full((patches // merged,), config.image_token_id)
        start, end = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
        prompt = torch.cat([start, picture, end, ids[:words]])
        media = {
            "pixel_values": torch.randn(patches, values, generator=self.generator),
            "image_grid_thw": torch.tensor([[1, self.side, self.side]]),
        }
        aligned = {"mm_token_type_ids": prompt.eq(config.image_token_id).long()}
        answer = tuple(ids[words:].tolist())
        return NativeExample(sample.uid, sample.kind, prompt, aligned, media, answer, "", False)


def config(size: str) -> Qwen2_5_VLConfig:
    """The configuration of Qwen2.5-VL-3B (`full`), or a small one."""
    sizes = QWEN_3B if size == "full" else QWEN_SMALL
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen2_5_VLConfig(
        text_config={**sizes["text"], "tie_word_embeddings": True},
        vision_config=sizes["vision"],
        tie_word_embeddings=True,
        **dict(zip(names, sizes["ids"], strict=True)),
    )


def foundation(size: str, device: torch.device, precision: torch.dtype, work: Work) -> NativeMLLM:
    """The native model with fresh adapters; its prompts are random, since no processor is at hand."""
    chosen = config(size)
    with torch.device("meta"):
        whole = Qwen2_5_VLForConditionalGeneration(chosen)
    draw(whole, "native", device, precision)
    whole.tie_weights()
    side = (QWEN_3B if size == "full" else QWEN_SMALL)["side"]
    reader: Any = RandomPrompts(chosen, side, work)
    model = NativeMLLM(whole, reader, ["image"], LoRA(), LoRA(), seed=0, precision=precision)
    model.cast_frozen(precision)
    return model


def samples(model: NativeMLLM, client: int, work: Work) -> list[NativeExample]:
    """A client's random pictures and prompts."""
    reader: Any = model.reader
    reader.generator = torch_stream(0, "samples", client)
    return [reader.prepare(Sample(f"{client}/{i}", {}, "", "")) for i in range(work.batch * work.steps)]
