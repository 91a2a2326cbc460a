"""Tiny random checkpoints of native families, written by their own classes: model, tokenizer and processor."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fedloom.core.hf_logging import quiet_hf

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% elif c['type'] == 'audio' %}AUDIO{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% elif c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
VOXTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{{ m['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def tokenizer(specials: Sequence[str] = (), template: str | None = None, **named: Any) -> Any:
    """A byte-level tokenizer: pad, bos, eos and 256 bytes, then the special tokens."""
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **named,
    )
    tok.add_tokens([AddedToken(t, special=True) for t in specials])
    tok.chat_template = template
    return tok


def save(folder: Path, config: Any, processor: Any, kind: type, tok: Any) -> Path:
    """Write a random model of class `kind` and its processor; tensors that start at zero get random values."""
    torch.manual_seed(0)
    with quiet_hf():
        model = kind(config).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        model.generation_config.eos_token_id = tok.eos_token_id
        model.generation_config.pad_token_id = tok.pad_token_id
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


class Parts:
    """The parts of a processor whose video part cannot be built without torchvision, saved as Hub checkpoints hold them."""

    def __init__(self, kind: str, tok: Any, *media: Any, template: str, **settings: Any) -> None:
        self.kind, self.tok, self.media, self.template, self.settings = kind, tok, media, template, settings

    def save_pretrained(self, folder: Path) -> None:
        self.tok.save_pretrained(folder)
        described: dict[str, Any] = {}
        for part in self.media:
            described |= part.to_dict()
        described["processor_class"] = self.kind
        (folder / "preprocessor_config.json").write_text(json.dumps(described, default=str))
        (folder / "processor_config.json").write_text(
            json.dumps({"processor_class": self.kind, **self.settings})
        )
        (folder / "chat_template.jinja").write_text(self.template)


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
    processor = LlavaProcessor(
        pixels,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=LLAVA,
    )
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
    processor = LlavaNextProcessor(
        pixels,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=LLAVA,
    )
    return save(folder, config, processor, LlavaNextForConditionalGeneration, tok)


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

    template = CHATML.replace("IMAGE", "<image>\n")
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

FAMILIES: dict[str, Callable[[Path], Path]] = {
    build.__name__: build
    for build in (
        llava,
        llava_next,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        idefics3,
        smolvlm,
        paligemma,
        gemma3,
        gemma4,
        internvl,
        qwen2_audio,
        voxtral,
        qwen2_5_omni_thinker,
    )
}


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


OTHERS: dict[str, Callable[[Path], Path]] = {
    build.__name__: build for build in (janus, mllama, audioflamingo3, mistral3)
}
