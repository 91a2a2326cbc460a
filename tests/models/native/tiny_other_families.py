"""Tiny random checkpoints of families that have no row in the table, or that cannot be built."""

from pathlib import Path

from tests.models.native.tiny_parts import CHATML, CLIP_VISION, TEXT, Parts, save, tokenizer
from tests.models.native.tiny_sound_families import _whisper_features


def janus(folder: Path) -> Path:
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    template = CHATML.replace("IMAGE", "<image_placeholder>\n")
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin>", "eoi_token": "<end>"}
    tok = tokenizer(["<|im_start|>", "<|im_end|>"], template, extra_special_tokens=named)
    vision = {**CLIP_VISION, "projection_dim": 32, "num_image_tokens": 4, "mlp_ratio": 2, "depth": 2}
    codes = {"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1]}
    codes |= {"num_res_blocks": 1, "latent_channels": 8, "projection_dim": 32, "image_token_embed_dim": 8}
    config = JanusConfig(
        vision_config=vision,
        vq_config=codes,
        text_config={"model_type": "llama", "vocab_size": len(tok), **TEXT},
        image_token_id=tok.image_token_id,
    )
    processor = JanusProcessor(
        JanusImageProcessorPil(size={"height": 28, "width": 28}, min_size=14), tok, chat_template=template
    )
    processor.num_image_tokens = 4
    return save(folder, config, processor, JanusForConditionalGeneration, tok)


def mllama(folder: Path) -> Path:
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    template = CHATML.replace("IMAGE", "<|image|>")
    tok = tokenizer(["<|im_start|>", "<|im_end|>", "<|image|>", "<|python_tag|>"], template)
    vision = {
        "hidden_size": 32,
        "attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "intermediate_layers_indices": [1],
        "vision_output_dim": 64,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    text = {"vocab_size": len(tok), "cross_attention_layers": [1], "pad_token_id": 0, **TEXT}
    config = MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=tok.convert_tokens_to_ids("<|image|>")
    )
    pixels = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=2)
    processor = MllamaProcessor(pixels, tok, chat_template=template)
    return save(folder, config, processor, MllamaForConditionalGeneration, tok)


def audioflamingo3(folder: Path) -> Path:
    from transformers import (
        AudioFlamingo3Config,
        AudioFlamingo3ForConditionalGeneration,
        AudioFlamingo3Processor,
    )

    template = CHATML.replace("AUDIO", "<sound>")
    tok = tokenizer(["<|im_start|>", "<|im_end|>", "<sound>"], template)
    audio = {
        "num_mel_bins": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_source_positions": 100,
    }
    config = AudioFlamingo3Config(
        audio_config=audio,
        text_config={"model_type": "qwen2", "vocab_size": len(tok), **TEXT},
        audio_token_id=tok.convert_tokens_to_ids("<sound>"),
    )
    processor = AudioFlamingo3Processor(_whisper_features(2), tok, chat_template=template)
    return save(folder, config, processor, AudioFlamingo3ForConditionalGeneration, tok)


def mistral3(folder: Path) -> Path:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    template = CHATML.replace("IMAGE", "[IMG]")
    tok = tokenizer(["<|im_start|>", "<|im_end|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], template)
    vision = CLIP_VISION | {"image_size": 56, "head_dim": 8}
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **vision},
        text_config={"model_type": "mistral", "vocab_size": len(tok), "head_dim": 8, **TEXT},
        image_token_index=tok.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    processor = Parts("PixtralProcessor", tok, template=template, patch_size=14, spatial_merge_size=2)
    return save(folder, config, processor, Mistral3ForConditionalGeneration, tok)


def gemma3n(folder: Path) -> Path:
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

    text = {"vocab_size": 300, "vocab_size_per_layer_input": 300, **TEXT}
    config = Gemma3nConfig(text_config=text)
    return save(folder, config, None, Gemma3nForConditionalGeneration, tokenizer())
