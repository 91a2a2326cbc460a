"""The captioner of FedMMKT's server: BLIP describes pictures, and embeds pictures and texts as unit vectors."""

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.shared_results import key_of
from fedloom.models.image_processing import Pixels, read_pixels
from fedloom.models.plain_tokenizer import PlainTokenizer

CAPTIONS, MATCHING = "captions", "matching"
"""Folders of the two models of a shipped captioner."""


class Captioner:
    """BlipForConditionalGeneration for captions and BlipForImageTextRetrieval for embeddings; both frozen."""

    def __init__(
        self,
        writer: Any,
        tokenizer: Any,
        pixels: Pixels,
        matcher: Any = None,
        name: str = "captioner",
        device: torch.device | str = "cpu",
    ) -> None:
        """`matcher` None can write captions only."""
        self.device = torch.device(device)
        self.name = name
        self.tokenizer, self.pixels = tokenizer, pixels
        self.writer = writer.to(self.device).eval().requires_grad_(False)
        self.matcher = None if matcher is None else matcher.to(self.device).eval().requires_grad_(False)

    @cached_property
    def frozen_key(self) -> bytes:
        """A digest of the weights that write captions, of the words, and of the pictures' preparation."""
        words = sorted(self.tokenizer.get_vocab().items())
        return key_of(self.writer.state_dict(), words, self.pixels.settings)

    @classmethod
    def load(
        cls, name: str | Path, *, matcher: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> "Captioner":
        """A shipped captioner by its name (`tiny-captioner`), a folder, or a Hugging Face id, in float32.

        A folder with `captions/` and `matching/` is both models. Any other one is a BLIP that writes captions, such as
        Salesforce/blip-image-captioning-base, and `matcher` names the one for embeddings, such as Salesforce/blip-itm-base-coco;
        they share tokenizer and preprocessing. Raises ExperimentError for one that cannot be read.
        """
        from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipForImageTextRetrieval

        shipped = Path(str(files("fedloom.models"))) / "shipped" / str(name)
        where: str | Path = shipped if (shipped / CAPTIONS).is_dir() else name
        if (Path(where) / CAPTIONS).is_dir():
            where, matcher = Path(where) / CAPTIONS, matcher or Path(where) / MATCHING
        writer = _model(BlipForConditionalGeneration, where)
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ExperimentError(
                f"the captioner {name} has no readable tokenizer: {reason(error)}"
            ) from error
        matching = None if matcher is None else _model(BlipForImageTextRetrieval, matcher)
        return cls(
            writer, tokenizer, read_pixels(where, "model.synthesis.captioner"), matching, str(name), device
        )

    @torch.no_grad()
    def caption(self, pictures: Tensor, *, max_new_tokens: int = 60, batch: int = 64) -> list[str]:
        """Greedy captions of uint8 (N, 3, H, W); each ends where the model ends it, or after `max_new_tokens`."""
        captions: list[str] = []
        longest = min(max_new_tokens, self.writer.config.text_config.max_position_embeddings - 1)
        for part in self._inputs(pictures, batch):
            with quiet_hf(), torch.random.fork_rng(devices=[]):
                ids = self.writer.generate(
                    pixel_values=part, max_new_tokens=longest, do_sample=False, num_beams=1
                )
            captions += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in captions]

    @torch.no_grad()
    def embed_pictures(self, pictures: Tensor, *, batch: int = 64) -> Tensor:
        """Unit rows (N, e) on the CPU of uint8 (N, 3, H, W). Raises ExperimentError without a matcher."""
        matcher = self._matcher()
        rows = [
            normalize(
                matcher.vision_proj(matcher.vision_model(pixel_values=part).last_hidden_state[:, 0]), dim=-1
            )
            for part in self._inputs(pictures, batch)
        ]
        return torch.cat(rows).cpu() if rows else torch.zeros(0, matcher.vision_proj.out_features)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], *, batch: int = 64) -> Tensor:
        """Unit rows (N, e) on the CPU. Raises ExperimentError without a matcher."""
        matcher, rows = self._matcher(), []
        for first in range(0, len(texts), batch):
            ids = self._tokens(texts[first : first + batch])
            states = matcher.text_encoder(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
            rows.append(normalize(matcher.text_proj(states.last_hidden_state[:, 0]), dim=-1))
        return torch.cat(rows).cpu() if rows else torch.zeros(0, matcher.text_proj.out_features)

    def _matcher(self) -> Any:
        if self.matcher is None:
            raise ExperimentError(
                f"the captioner {self.name} has no model for embeddings; name a BLIP for retrieval as its matcher"
            )
        return self.matcher

    def _tokens(self, texts: Sequence[str]) -> Any:
        limit = min(
            self.tokenizer.model_max_length, self._matcher().config.text_config.max_position_embeddings
        )
        plain = PlainTokenizer(self.tokenizer)
        rows = [plain(text, truncation=True, max_length=limit) for text in texts]
        return self.tokenizer.pad(rows, return_tensors="pt").to(self.device)

    def _inputs(self, pictures: Tensor, batch: int) -> list[Tensor]:
        """Preprocessed batches of pictures."""
        return [
            self.pixels.normal(torch.stack([self.pixels.sized(p) for p in part]).to(self.device))
            for part in torch.split(pictures, batch)
            if len(part)
        ]


def _model(kind: Any, where: str | Path) -> Any:
    """A checkpoint of transformers, complete, in float32, without pickle and remote code."""
    try:
        with quiet_hf(), torch.random.fork_rng(devices=[]):
            model, report = kind.from_pretrained(
                where,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ExperimentError(f"the captioner {where} cannot be loaded: {reason(error)}") from error
    if missing := sorted(map(str, report["missing_keys"])):
        raise ExperimentError(
            f"the captioner {where} is no {kind.__name__}: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    return model
