"""A SigLIP and pairs of a picture and a text model, of random weights, as `model.clip` reads them. Nothing is square."""

import json
from pathlib import Path

import torch
from transformers import (
    BeitConfig,
    BeitModel,
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from tests.models.clip.tiny_clip import PREPROCESSOR, SIDE, TEXT, VISION, WORDS, tokenizer

PICTURE = {**VISION, "image_size": SIDE, "patch_size": 8}
LANGUAGE = {**TEXT, "vocab_size": len(WORDS) + 1, "max_position_embeddings": 40}
PAIRS = {
    "vit-bert": lambda: (ViTModel(ViTConfig(**PICTURE)), BertModel(BertConfig(**LANGUAGE))),
    "dinov2-roberta": lambda: (
        Dinov2Model(Dinov2Config(**PICTURE, layerscale_value=0.7)),
        RobertaModel(RobertaConfig(**LANGUAGE, pad_token_id=len(WORDS))),
    ),
    "clip-bert": lambda: (CLIPVisionModel(CLIPVisionConfig(**PICTURE)), BertModel(BertConfig(**LANGUAGE))),
    "beit-bert": lambda: (BeitModel(BeitConfig(**PICTURE)), BertModel(BertConfig(**LANGUAGE))),
}
"""The last one's picture model is of no family that runs block by block."""


def write_other(name: str, folder: Path) -> Path:
    """siglip, or a pair."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "siglip":
            words = {
                **LANGUAGE,
                "projection_size": VISION["hidden_size"],
                "pad_token_id": 16,
                "eos_token_id": 15,
            }
            model = SiglipModel(SiglipConfig(text_config=words, vision_config=PICTURE))
        else:
            vision, text = PAIRS[name]()
            model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3.0)
            model.logit_scale.fill_(2.0)
    read = tokenizer()
    if name == "siglip":
        read.add_special_tokens({"pad_token": "<pad>"})
    else:
        read.add_special_tokens({"cls_token": "<start>", "sep_token": "<end>", "pad_token": "<pad>"})
    model.eval().save_pretrained(folder)
    read.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**PREPROCESSOR, "image_processor_type": "CLIPImageProcessor"}), encoding="utf-8"
    )
    return folder
