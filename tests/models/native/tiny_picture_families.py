"""Tiny random checkpoints of native families that read pictures, written by their own classes."""

from pathlib import Path
from typing import Any

from tests.models.native.tiny_parts import (
    CHATML,
    CLIP_VISION,
    GEMMA,
    IDEFICS,
    LLAVA,
    MROPE,
    TEXT,
    Parts,
    save,
    tokenizer,
)

LLAVA_TOKENS: dict[str, Any] = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
    "chat_template": LLAVA,
}


def llava(folder: Path) -> Path:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tok = tokenizer(["<image>"], LLAVA)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP_VISION),
        text_config=LlamaConfig(vocab_size=len(tok), **TEXT),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(pixels, tok, **LLAVA_TOKENS)
    return save(folder, config, processor, LlavaForConditionalGeneration, tok)


def llava_next(folder: Path) -> Path:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tok = tokenizer(["<image>"], LLAVA)
    grid = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**CLIP_VISION),
        text_config=LlamaConfig(vocab_size=len(tok), **TEXT),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=4,
    )
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(pixels, tok, **LLAVA_TOKENS)
    return save(folder, config, processor, LlavaNextForConditionalGeneration, tok)


def llava_next_video(folder: Path) -> Path:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tok = tokenizer(["<image>", "<video>"], LLAVA)
    grid = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**CLIP_VISION),
        text_config=LlamaConfig(vocab_size=len(tok), **TEXT),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        image_seq_length=4,
        video_seq_length=1,
    )
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    described = {k: v for k, v in LLAVA_TOKENS.items() if k not in ("image_token", "chat_template")}
    video = {"video_processor_type": "LlavaNextVideoVideoProcessor", "crop_size": {"height": 28, "width": 28}}
    video["size"] = {"shortest_edge": 28}
    processor = Parts("LlavaNextVideoProcessor", tok, pixels, template=LLAVA, video=video, **described)
    return save(folder, config, processor, LlavaNextVideoForConditionalGeneration, tok)


def llava_onevision(folder: Path) -> Path:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    template = CHATML.replace("IMAGE", "<image>\n").replace("VIDEO", "<video>\n")
    tok = tokenizer(["<image>", "<video>", "<|im_start|>", "<|im_end|>"], template)
    grid = [[28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**CLIP_VISION, vision_use_head=False),
        text_config=Qwen2Config(vocab_size=len(tok), **TEXT),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_4",
    )
    pixels = LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=grid)
    processor = Parts(
        "LlavaOnevisionProcessor",
        tok,
        pixels,
        template=template,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
    )
    return save(folder, config, processor, LlavaOnevisionForConditionalGeneration, tok)


QWEN_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
QWEN = QWEN.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>")


def _qwen_ids(tok: Any) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {n: tok.convert_tokens_to_ids(t) for n, t in names.items()}


def _qwen_pixels(patch: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    side = 2 * patch
    return Qwen2VLImageProcessorPil(
        patch_size=patch, size={"shortest_edge": side * side, "longest_edge": 4 * side * side}
    )


def qwen2_vl(folder: Path) -> Path:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tok = tokenizer(QWEN_TOKENS, QWEN)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    text = {"vocab_size": len(tok), "rope_parameters": MROPE, **TEXT}
    config = Qwen2VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tok))
    processor = Parts("Qwen2VLProcessor", tok, _qwen_pixels(14), template=QWEN)
    return save(folder, config, processor, Qwen2VLForConditionalGeneration, tok)


def qwen2_5_vl(folder: Path) -> Path:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tok = tokenizer(QWEN_TOKENS, QWEN)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    text = {"vocab_size": len(tok), "rope_parameters": MROPE, **TEXT}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tok))
    processor = Parts("Qwen2_5_VLProcessor", tok, _qwen_pixels(14), template=QWEN)
    return save(folder, config, processor, Qwen2_5_VLForConditionalGeneration, tok)


def qwen3_vl(folder: Path) -> Path:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tok = tokenizer(QWEN_TOKENS, QWEN)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 16,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    text = {"vocab_size": len(tok), "rope_parameters": MROPE, "head_dim": 8, **TEXT}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tok))
    processor = Parts("Qwen3VLProcessor", tok, _qwen_pixels(16), template=QWEN)
    return save(folder, config, processor, Qwen3VLForConditionalGeneration, tok)


IDEFICS_TOKENS = [
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
]
TILE_TOKENS = [f"<row_{r}_col_{c}>" for r in (1, 2, 3) for c in (1, 2, 3)]


def idefics3(folder: Path) -> Path:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tok = tokenizer([*IDEFICS_TOKENS, *TILE_TOKENS], IDEFICS)
    config = Idefics3Config(
        vision_config=CLIP_VISION,
        text_config={"model_type": "llama", "vocab_size": len(tok), **TEXT},
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pixels = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = Idefics3Processor(pixels, tok, image_seq_len=1, chat_template=IDEFICS)
    return save(folder, config, processor, Idefics3ForConditionalGeneration, tok)


def paligemma(folder: Path) -> Path:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tok = tokenizer()
    pixels = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pixels.image_seq_length = 4
    processor = PaliGemmaProcessor(pixels, tok)
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **CLIP_VISION},
        text_config={"model_type": "gemma", "vocab_size": len(tok), "head_dim": 8, **TEXT},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return save(folder, config, processor, PaliGemmaForConditionalGeneration, tok)


def gemma3(folder: Path) -> Path:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tok = tokenizer(["<start_of_turn>", "<end_of_turn>"], GEMMA, extra_special_tokens=named)
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **CLIP_VISION},
        text_config={"vocab_size": len(tok), "head_dim": 8, "sliding_window": 64, **TEXT},
        mm_tokens_per_image=4,
        image_token_id=tok.image_token_id,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
    )
    pixels = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    processor = Gemma3Processor(pixels, tok, chat_template=GEMMA, image_seq_length=4)
    return save(folder, config, processor, Gemma3ForConditionalGeneration, tok)


def internvl(folder: Path) -> Path:
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    template = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tok = tokenizer(["<|im_start|>", "<|im_end|>"], template, extra_special_tokens=named)
    config = InternVLConfig(
        vision_config={
            **{k: v for k, v in CLIP_VISION.items() if k not in ("image_size", "patch_size")},
            "image_size": [28, 28],
            "patch_size": [14, 14],
            "layer_scale_init_value": 1.0,
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tok), **TEXT},
        image_token_id=tok.context_image_token_id,
        image_seq_length=1,
    )
    pixels = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    processor = Parts("InternVLProcessor", tok, pixels, template=template, image_seq_length=1)
    return save(folder, config, processor, InternVLForConditionalGeneration, tok)


def smolvlm(folder: Path) -> Path:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tok = tokenizer([*IDEFICS_TOKENS, *TILE_TOKENS], IDEFICS, extra_special_tokens=SMOLVLM_NAMES)
    config = SmolVLMConfig(
        vision_config=CLIP_VISION,
        text_config={"model_type": "llama", "vocab_size": len(tok), **TEXT},
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pixels = SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = Parts("SmolVLMProcessor", tok, pixels, template=IDEFICS, image_seq_len=1)
    return save(folder, config, processor, SmolVLMForConditionalGeneration, tok)


SMOLVLM_NAMES = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}
