"""Random tiny generators and captioners, of the same classes as the large ones, for tests."""

from pathlib import Path

import torch

from fedloom.data.digits import DIGITS
from fedloom.models.generation.checkpoint import Parts
from fedloom.models.generation.generator import Generator
from fedloom.models.pretraining.captioner import blip_settings, preprocessor, text_tokenizer
from fedloom.models.pretraining.clip import clip_tokenizer

WORDS = ("a", "an", "picture", "of", "loop", "roof", "no", "seen", *DIGITS)
TOKENS = 12


def parts(*, latent: bool, prediction: str = "epsilon", seed: int = 0) -> Parts:
    """A pixel generator of 3 x 8 x 8, or a latent one of 3 x 8 x 8 with latents of 4 x 4 x 4."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer(WORDS, TOKENS)
    channels, side = (4, 4) if latent else (3, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = UNet2DConditionModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=24,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=24,
                intermediate_size=40,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            sample_size=8,
            scaling_factor=0.7,
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=not latent,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    return Parts(denoiser, text, tokenizer, scheduler, autoencoder if latent else None)


def generator(*, latent: bool, prediction: str = "epsilon", seed: int = 0) -> Generator:
    """A random generator."""
    return Generator(parts(latent=latent, prediction=prediction, seed=seed))


def captioner(folder: Path, seed: int = 0) -> Path:
    """`folder` with a random captioner of pictures of 8 x 8: `captions/` and `matching/`."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

    tokenizer = text_tokenizer(WORDS, TOKENS)
    config = BlipConfig(**blip_settings(tokenizer, side=8, width=16, layers=1, positions=TOKENS + 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, kind in (
            ("captions", BlipForConditionalGeneration),
            ("matching", BlipForImageTextRetrieval),
        ):
            kind(config).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
            (folder / name / "preprocessor_config.json").write_text(preprocessor(8), encoding="utf-8")
    return folder
