"""Synthesis at FedMMKT's server: a text-to-image generator, a captioner, and the public set that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.shared_results import LIMIT, SharedResults, key_of, tensor_bytes
from fedloom.core.streams import torch_stream
from fedloom.data.sources.labelled import as_tensor, as_texts
from fedloom.models.generation.captioner import Captioner
from fedloom.models.generation.generator import Generator
from fedloom.models.generation.settings import SynthesisSettings

DENOISER = "denoiser/"
_PICTURES: SharedResults[Tensor] = SharedResults(tensor_bytes)
_CAPTIONS: SharedResults[list[str]] = SharedResults(lambda texts: sum(map(len, texts)))


@dataclass(frozen=True)
class Public:
    """The public set P_t: `items[m]` goes to clients of modality m, one row per item.

    image uint8 (N, 3, H, W); text uint8 (N, L), UTF-8 padded with zeros; audio float32 (N, T), 16 kHz. `prompted` (N,): the
    class of each prompt; `hits`: number of class names removed from captions.
    """

    items: Mapping[str, Tensor]
    prompted: Tensor
    hits: int = 0

    @cached_property
    def captions(self) -> list[str]:
        """The items' captions."""
        return as_texts(self.items["text"])


class Synthesis:
    """The server's generator and captioner, for the classes `names`. A denoiser is a mapping of tensors, never changed."""

    def __init__(
        self,
        settings: SynthesisSettings,
        generator: Generator,
        captioner: Captioner,
        names: Sequence[str],
        modalities: Sequence[str],
    ) -> None:
        self.settings, self.generator, self.captioner = settings, generator, captioner
        self.names, self.modalities = tuple(names), tuple(modalities)

    @property
    def start(self) -> Mapping[str, Tensor]:
        """The denoiser before any training, by `denoiser/<place>`."""
        return self.generator.start

    def save(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """The generator with this denoiser, as plain diffusers loads it."""
        self.generator.load_tensors({n: t for n, t in tensors.items() if n.startswith(DENOISER)})
        self.generator.save(folder)

    def draw(
        self, denoiser: Mapping[str, Tensor], labels: Sequence[int], seed: int, *stream: str | int
    ) -> Tensor:
        """One picture per label, uint8 (N, 3, H, W), from the named stream; what a run before drew is not drawn again."""
        self.generator.load_tensors(denoiser)
        prompts = [self.settings.template.format(self.names[label]) for label in labels]
        s, own = self.settings, self.generator

        def sample() -> Tensor:
            rng = torch_stream(seed, "synthesis", *stream)
            return own.sample(prompts, rng, guidance=s.guidance, steps=s.steps)

        if len(prompts) * own.channels * own.size**2 > LIMIT:
            return sample()
        key = key_of(own.tensors, own.frozen_key, prompts, seed, stream, s.guidance, s.steps)
        return _PICTURES.of(key, sample).clone()

    def caption(self, pictures: Tensor) -> list[str]:
        """The captioner's sentence for each picture, as `draw`."""
        most, own = self.settings.caption_tokens, self.captioner
        key = key_of({"pictures": pictures}, own.frozen_key, most, str(own.device))
        return list(_CAPTIONS.of(key, lambda: own.caption(pictures, max_new_tokens=most)))

    def public(self, denoiser: Mapping[str, Tensor], seed: int, round: int) -> Public:
        """M0: pictures of every class, their captions without class names, and the other modalities."""
        from fedloom.data.digits import mask_names, sonify

        count = len(self.names)
        prompted = torch.arange(count).repeat_interleave(self.settings.per_class)
        shown = prompted
        if self.settings.confuse:
            rng = torch_stream(seed, "confuse", round)
            wrong = torch.rand(len(prompted), generator=rng) < self.settings.confuse
            shift = torch.randint(1, max(count, 2), prompted.shape, generator=rng)
            shown = torch.where(wrong, (prompted + shift) % count, prompted)
        pictures = self.draw(denoiser, shown.tolist(), seed, round)
        masked = [mask_names(caption, self.names) for caption in self.caption(pictures)]
        items = {"image": pictures, "text": as_tensor([text for text, _ in masked])}
        if "audio" in self.modalities:
            items["audio"] = torch.stack([sonify(p) for p in pictures])
        return Public(items, prompted, sum(hits for _, hits in masked))

    def anchors(self, public: Public, width: int) -> dict[str, Tensor]:
        """(N, d) unit rows by modality: the captioner's contrastive embeddings, mapped to the common width.

        A picture's embedding also stands for every other modality made from it.
        """
        pictures = self.captioner.embed_pictures(public.items["image"])
        captions = self.captioner.embed_texts(public.captions)
        embeddings = {"text": captions} | {m: pictures for m in public.items if m != "text"}
        return {m: into_width(rows, width) for m, rows in embeddings.items()}

    def tune(
        self,
        denoiser: Mapping[str, Tensor],
        public: Public,
        chosen: Tensor,
        labels: Tensor,
        confidence: Tensor,
        seed: int,
        round: int,
        steps: int | None = None,
    ) -> tuple[dict[str, Tensor], float]:
        """M4: the denoiser after training on the `chosen` items under these labels (n,) with these weights (n,); its loss.

        Only tensors of the denoiser change. Prompts are the class's template and the item's caption.
        """
        prompts = [
            ", ".join(p for p in (self.settings.template.format(self.names[label]), public.captions[i]) if p)
            for i, label in zip(chosen.tolist(), labels.tolist(), strict=True)
        ]
        s = self.settings
        return self.generator.tune(
            denoiser,
            public.items["image"][chosen],
            prompts,
            confidence,
            torch_stream(seed, "tune", round),
            lr=s.lr,
            batch_size=s.batch_size,
            passes=s.passes,
            steps=steps,
            drop=s.drop,
            anchor_weight=s.anchor_weight,
        )


def into_width(rows: Tensor, width: int) -> Tensor:
    """(N, e) to (N, d) unit rows: by a fixed orthonormal map, which keeps all cosines if d >= e."""
    if rows.shape[1] != width:
        e = rows.shape[1]
        gaussian = torch.randn(max(e, width), min(e, width), generator=torch_stream(0, "width", e, width))
        basis = torch.linalg.qr(gaussian.double())[0].to(rows)
        rows = rows @ (basis if e >= width else basis.T)
    return normalize(rows, dim=-1)
