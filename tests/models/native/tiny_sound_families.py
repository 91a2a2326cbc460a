"""Tiny random checkpoints of native families that read sounds, some beside pictures, written by their own classes."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.models.native.tiny_parts import CHATML, CLIP_VISION, MROPE, TEXT, VOXTRAL, Parts, save, tokenizer
from tests.models.native.tiny_picture_families import _qwen_pixels

GEMMA4_NAMES = {
    "image_token": "<|image|>",
    "boi_token": "<|boi|>",
    "eoi_token": "<|eoi|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|boa|>",
    "eoa_token": "<|eoa|>",
    "video_token": "<|video|>",
}


def gemma4(folder: Path) -> Path:
    from transformers import Gemma4AudioFeatureExtractor, Gemma4Config, Gemma4ForConditionalGeneration
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    template = CHATML.replace("IMAGE", "<|image|>").replace("%}AUDIO{%", "%}<|audio|>{%")
    tok = tokenizer(["<|im_start|>", "<|im_end|>"], template, extra_special_tokens=GEMMA4_NAMES)
    ids = {f"{name}_id": tok.convert_tokens_to_ids(t) for name, t in GEMMA4_NAMES.items()}
    ids["eoa_token_index"] = ids.pop("eoa_token_id")
    config = Gemma4Config(
        text_config={
            "vocab_size": len(tok),
            "vocab_size_per_layer_input": len(tok),
            "hidden_size_per_layer_input": 8,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 64,
            "num_global_key_value_heads": 2,
            **TEXT,
        },
        vision_config={
            **{k: v for k, v in CLIP_VISION.items() if k != "image_size"},
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 16,
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
        },
        audio_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "output_proj_dims": 32,
            "subsampling_conv_channels": [128, 32],
        },
        **ids,
    )
    pixels = Gemma4ImageProcessorPil(patch_size=16, max_soft_tokens=70, pooling_kernel_size=2)
    processor = Parts("Gemma4Processor", tok, Gemma4AudioFeatureExtractor(), pixels, template=template)
    return save(folder, config, processor, Gemma4ForConditionalGeneration, tok)


def _whisper_features(seconds: int, mels: int = 16) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)


def qwen2_audio(folder: Path) -> Path:
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tok = tokenizer(["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "max_source_positions": 100,
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tok), **TEXT},
        audio_token_index=tok.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = Qwen2AudioProcessor(_whisper_features(2), tok)
    return save(folder, config, processor, Qwen2AudioForConditionalGeneration, tok)


def voxtral(folder: Path) -> Path:
    from transformers import VoxtralConfig, VoxtralForConditionalGeneration, VoxtralProcessor

    tok = tokenizer(["[INST]", "[/INST]", "[BEGIN_AUDIO]"], VOXTRAL)
    core = json.loads(tok.backend_tokenizer.to_str())
    swapped = {v: k for k, v in core["model"]["vocab"].items()}
    swapped[24], swapped[len(swapped)] = "[AUDIO]", swapped[24]  # the class knows the token by its number
    core["model"]["vocab"] = {v: k for k, v in swapped.items()}
    return _voxtral(folder, core, VoxtralConfig, VoxtralForConditionalGeneration, VoxtralProcessor)


def _voxtral(folder: Path, core: Any, config: Any, model: Any, processor: Any) -> Path:
    from transformers import PreTrainedTokenizerFast

    shift = {t["content"]: t for t in core["added_tokens"]}
    size = len(core["model"]["vocab"])
    for i, name in enumerate(n for n in shift if n not in core["model"]["vocab"]):
        shift[name]["id"] = size + i
    tok = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["[INST]", "[/INST]", "[BEGIN_AUDIO]", "[AUDIO]"],
    )
    tok.chat_template = VOXTRAL
    audio = {
        "num_mel_bins": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_source_positions": 100,
    }
    text = {"model_type": "llama", "vocab_size": len(tok), "head_dim": 8, **TEXT}
    settings = config(audio_config=audio, text_config=text, audio_token_id=24)
    return save(folder, settings, processor(_whisper_features(2), tok), model, tok)


OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


def qwen2_5_omni_thinker(folder: Path) -> Path:
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    template = CHATML.replace("IMAGE", "<|vision_bos|><|IMAGE|><|vision_eos|>")
    template = template.replace("%}AUDIO{%", "%}<|audio_bos|><|AUDIO|><|audio_eos|>{%")
    tok = tokenizer(["<|im_start|>", "<|im_end|>"], template, extra_special_tokens=OMNI_NAMES)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "max_source_positions": 100,
            "n_window": 10,
            "output_dim": 32,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config={"vocab_size": len(tok), "rope_parameters": MROPE, **TEXT},
        image_token_index=tok.image_token_id,
        audio_token_index=tok.audio_token_id,
        video_token_index=tok.video_token_id,
        vision_start_token_id=tok.vision_bos_token_id,
        vision_end_token_id=tok.vision_eos_token_id,
        audio_start_token_id=tok.audio_bos_token_id,
        audio_end_token_id=tok.audio_eos_token_id,
    )
    processor = Parts("Qwen2_5OmniProcessor", tok, _whisper_features(2), _qwen_pixels(14), template=template)
    return save(folder, config, processor, Qwen2_5OmniThinkerForConditionalGeneration, tok)
