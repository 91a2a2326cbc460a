"""Generators on disk: Stable Diffusion's layout in diffusers, without pickle and remote code; the autoencoder may be missing."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf


@dataclass(frozen=True)
class Parts:
    """A UNet2DConditionModel, a CLIPTextModel with its tokenizer, a scheduler, and an AutoencoderKL or None."""

    denoiser: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    autoencoder: Any = None

    @property
    def tokens(self) -> int:
        """Tokens that every text is padded or cut to."""
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))


def folder_of(name: str | Path) -> str | Path:
    """The folder of a shipped generator; any other name unchanged."""
    shipped = Path(str(files("fedloom.models"))) / "shipped" / str(name)
    return shipped if (shipped / "unet").is_dir() else name


def need_diffusers() -> None:
    """Raises ExperimentError where diffusers is not installed."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ExperimentError(
            'a generator needs diffusers, which is not installed; pip install "fedloom[generate]"'
        ) from error


def read(name: str | Path) -> Parts:
    """The parts of a shipped generator, a folder, or a Hugging Face id, in float32. Raises ExperimentError."""
    need_diffusers()
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    where = folder_of(name)
    local = Path(where).is_dir()
    if not local and Path(where).is_absolute():
        raise ExperimentError(
            f"there is no generator {name}; name tiny-t2i, a folder with a unet/, or a Hugging Face id"
        )
    if local and not (Path(where) / "unet").is_dir():
        raise ExperimentError(f"{name} holds no generator: it has no folder unet/ in diffusers' layout")
    latent = (Path(where) / "vae").is_dir() if local else True
    safe: dict[str, Any] = {"use_safetensors": True, "local_files_only": local}
    try:
        # Initial weights are drawn and replaced at once.
        with quiet_hf(), torch.random.fork_rng(devices=[]):
            parts = Parts(
                UNet2DConditionModel.from_pretrained(where, subfolder="unet", **safe).float(),
                CLIPTextModel.from_pretrained(
                    where, subfolder="text_encoder", dtype=torch.float32, trust_remote_code=False, **safe
                ),
                AutoTokenizer.from_pretrained(where, subfolder="tokenizer", trust_remote_code=False),
                DDIMScheduler.from_pretrained(where, subfolder="scheduler"),
                AutoencoderKL.from_pretrained(where, subfolder="vae", **safe).float() if latent else None,
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"the generator {name} cannot be loaded: {reason(error)}") from error
    kind = parts.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ExperimentError(
            f"the generator {name} predicts {kind}; name one that predicts the noise (epsilon) or v (v_prediction)"
        )
    return parts


def ddim(scheduler: Any) -> Any:
    """A fresh DDIM scheduler with the checkpoint's noise schedule."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(scheduler.config)


def plain(tokenizer: Any) -> None:
    """Reset truncation and padding, which a fast tokenizer saves: equal models shall give equal bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def write(parts: Parts, folder: Path) -> None:
    """A folder that StableDiffusionPipeline.from_pretrained loads; without an autoencoder, its parts load one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    plain(parts.tokenizer)
    with quiet_hf():
        if parts.autoencoder is not None:
            from diffusers import StableDiffusionPipeline

            pipeline = StableDiffusionPipeline(
                vae=parts.autoencoder,
                text_encoder=parts.text_encoder,
                tokenizer=parts.tokenizer,
                unet=parts.denoiser,
                scheduler=parts.scheduler,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipeline.save_pretrained(folder, safe_serialization=True)
            _remove_origins(folder)
            return
        parts.denoiser.save_pretrained(folder / "unet", safe_serialization=True)
        parts.text_encoder.save_pretrained(folder / "text_encoder")
        parts.tokenizer.save_pretrained(folder / "tokenizer")
        parts.scheduler.save_pretrained(folder / "scheduler")
    _remove_origins(folder)


def _remove_origins(folder: Path) -> None:
    """Take the folder that a part was loaded from out of its config.json: a path of this machine is nobody else's business."""
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
