"""Random encoders of two layers, saved by the real classes with their real processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIDE, PATCH = 32, 8
SECONDS = 1.0


def _pixels(name: str, **settings: Any) -> Any:
    import importlib

    kind = name.removesuffix("ImageProcessorPil").lower()
    module = importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    return getattr(module, name)(**settings)


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    size = {"height": SIDE, "width": SIDE}
    model = CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH))
    return model, _pixels("CLIPImageProcessorPil", size=size, crop_size=size)


def _whole_clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPModel

    text = {**SMALL, "vocab_size": 99, "max_position_embeddings": 16}
    config = CLIPConfig(
        text_config=text,
        vision_config={**SMALL, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=16,
    )
    return CLIPModel(config), _clip()[1]


def _siglip() -> tuple[Any, Any]:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH))
    return model, _pixels("SiglipImageProcessorPil", size={"height": SIDE, "width": SIDE})


def _siglip2() -> tuple[Any, Any]:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    model = Siglip2VisionModel(Siglip2VisionConfig(**SMALL, patch_size=PATCH, num_patches=16))
    return model, _pixels("Siglip2ImageProcessorPil", patch_size=PATCH, max_num_patches=16)


def _dinov2() -> tuple[Any, Any]:
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(**{**SMALL, "image_size": SIDE, "patch_size": PATCH}))
    size = {"height": SIDE, "width": SIDE}
    return model, _pixels("BitImageProcessorPil", size={"shortest_edge": SIDE}, crop_size=size)


def _dinov3() -> tuple[Any, Any]:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    model = DINOv3ViTModel(DINOv3ViTConfig(**SMALL, image_size=SIDE, patch_size=PATCH, num_register_tokens=2))
    return model, _dinov2()[1]


def _vit() -> tuple[Any, Any]:
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(**SMALL, image_size=SIDE, patch_size=PATCH))
    return model, _pixels("ViTImageProcessorPil", size={"height": SIDE, "width": SIDE})


def _convnext() -> tuple[Any, Any]:
    from transformers import ConvNextV2Config, ConvNextV2Model

    model = ConvNextV2Model(
        ConvNextV2Config(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, image_size=SIDE)
    )
    return model, _pixels("ConvNextImageProcessorPil", size={"shortest_edge": SIDE})


def _resnet() -> tuple[Any, Any]:
    from transformers import ResNetConfig, ResNetModel

    sizes = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetModel(ResNetConfig(**sizes))
    return _used(model), _pixels("ConvNextImageProcessorPil", size={"shortest_edge": SIDE})


def _efficientnet() -> tuple[Any, Any]:
    from transformers import EfficientNetConfig, EfficientNetModel
    from transformers.models.efficientnet.image_processing_pil_efficientnet import (
        EfficientNetImageProcessorPil,
    )

    blocks = {"kernel_sizes": [3, 5], "in_channels": [32, 16], "out_channels": [16, 24], "strides": [1, 2]}
    config = EfficientNetConfig(
        **blocks,
        num_block_repeats=[1, 1],
        expand_ratios=[1, 2],
        width_coefficient=0.25,
        depth_coefficient=1.0,
        hidden_dim=320,
        image_size=SIDE,
    )
    size = {"height": SIDE, "width": SIDE}
    return _used(EfficientNetModel(config)), EfficientNetImageProcessorPil(size=size)


def _used(model: torch.nn.Module) -> torch.nn.Module:
    """The model with normalisation statistics of pictures that it has seen."""
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


def _whisper() -> tuple[Any, Any]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "vocab_size": 60}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    model = WhisperModel(WhisperConfig(d_model=32, num_mel_bins=16, max_source_positions=200, **sizes, **ids))
    return model, WhisperFeatureExtractor(feature_size=16, chunk_length=4)


def _wav2vec2() -> tuple[Any, Any]:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    model = Wav2Vec2Model(
        Wav2Vec2Config(
            **SMALL,
            conv_dim=(16, 16, 16),
            conv_stride=(8, 8, 5),
            conv_kernel=(16, 8, 5),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        )
    )
    return model, Wav2Vec2FeatureExtractor()


def _ast() -> tuple[Any, Any]:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    model = ASTModel(ASTConfig(**SMALL, num_mel_bins=16, max_length=64, patch_size=8))
    return model, ASTFeatureExtractor(num_mel_bins=16, max_length=64)


def _clap() -> tuple[Any, Any]:
    from transformers import ClapAudioConfig, ClapAudioModel, ClapFeatureExtractor

    model = ClapAudioModel(
        ClapAudioConfig(
            hidden_size=32,
            patch_embeds_hidden_size=16,
            depths=[1, 1],
            num_attention_heads=[2, 2],
            window_size=2,
            spec_size=32,
            num_mel_bins=16,
            patch_size=4,
            patch_stride=(4, 4),
            projection_dim=16,
        )
    )
    return model, ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=320, max_length_s=1, truncation="rand_trunc"
    )


IMAGE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "clip": _clip,
    "whole-clip": _whole_clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "dinov2": _dinov2,
    "dinov3": _dinov3,
    "vit": _vit,
    "convnextv2": _convnext,
}
WITHOUT_LINEAR: dict[str, Callable[[], tuple[Any, Any]]] = {"resnet": _resnet, "efficientnet": _efficientnet}
"""Networks of convolutions and batch norms alone, on which no adapter goes."""
AUDIO: dict[str, Callable[[], tuple[Any, Any]]] = {
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "ast": _ast,
    "clap": _clap,
}


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """The folder of an encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = {**IMAGE, **WITHOUT_LINEAR, **AUDIO}[name]()
    model.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    return folder / name
