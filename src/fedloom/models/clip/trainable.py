"""CLIP with a method's adapter: the model of federated image classification.

The CLIPModel of transformers stays unchanged; several AdaptedCLIP may share one. Groups are those of the adapter: `adapter`,
`prompt`, `gate` and so on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable, means
from fedloom.models.batch_rows import RowMap
from fedloom.models.clip import checkpoint as clip_io
from fedloom.models.clip.adapter import CLIPAdapter, Names, Who
from fedloom.models.clip.reading import PictureReading
from fedloom.models.clip.towers import Towers
from fedloom.models.image_processing import Pixels
from fedloom.models.precision import in_precision, moved, placed
from fedloom.models.shared_features import Prefix


@dataclass(frozen=True, eq=False)
class PictureExample:
    """A picture, resized and cropped: `image` uint8 (3, S, S); `label`, its index among the names of `kind`.

    `kind` is "base" or "novel"; `allowed`: indices to choose from, None for all.
    """

    uid: str
    image: Tensor
    label: int
    kind: str
    allowed: tuple[int, ...] | None = None


class AdaptedCLIP(Trainable):
    """`towers` on a CLIPModel, `adapter` on the towers; labels index `classes`."""

    def __init__(
        self,
        towers: Towers,
        pixels: Pixels,
        classes: Classes,
        adapter: CLIPAdapter,
        *,
        seed: int,
    ) -> None:
        """Trained tensors start from the streams of `seed`.

        Raises ExperimentError where the adapter does not fit the towers, or a class name not the text tower.
        """
        self.towers, self.pixels, self.classes, self.adapter = towers, pixels, classes, adapter
        self.part = adapter.part(towers)
        self.part.draw(seed)
        self.part.to(towers.like)
        self._root = nn.ModuleDict({"clip": towers.clip, "part": self.part})
        super().__init__(self.part.named(), {}, {})
        for names in (
            classes.base,
            classes.novel,
        ):  # a name that is too long shows before anything is trained
            if names:
                self.part.texts(names)

    @property
    def root(self) -> nn.Module:
        """The CLIPModel and the adapter's module."""
        return self._root

    @property
    def rows(self) -> RowMap:
        """Maps rows of the current trained layer's input to examples."""
        return self.part.rows

    def dropout_in(self, groups: frozenset[str]) -> None:
        """No effect: neither CLIP nor its adapters have dropout."""

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """All groups for all clients."""
        return frozenset(map(group_of, self.tensors))

    def names(self, kind: str) -> Names:
        """The class names of the list that a sample's meta "classes" names."""
        return self.classes.novel if kind == "novel" else self.classes.base

    def prepare(self, sample: Sample, client: str | None = None) -> PictureExample:
        """The picture, resized; a sample without one gets the mean colour.

        Raises ExperimentError for a sample that is no picture of one of the classes.
        """
        self._label(sample)
        return self.finish(sample, self.reading(sample))

    @cached_property
    def reading(self) -> PictureReading:
        """See `loading.prepared.ReadsFiles`."""
        return PictureReading(self.pixels)

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> PictureExample:
        """See `loading.prepared.ReadsFiles`."""
        label, kind = self._label(sample)
        image = inputs.get("image")
        if image is None:
            mean = torch.tensor([round(m / self.pixels.factor) for m in self.pixels.mean], dtype=torch.uint8)
            image = self.pixels.sized(mean[:, None, None].expand(-1, 8, 8))
        allowed = sample.meta.get("allowed")
        return PictureExample(sample.uid, image, label, kind, None if allowed is None else tuple(allowed))

    def _label(self, sample: Sample) -> tuple[int, str]:
        """The index of the sample's class, and the list of classes. Raises ExperimentError."""
        kind, label = sample.meta.get("classes"), sample.meta.get("label")
        if kind not in ("base", "novel") or label is None or set(sample.modalities) - {"image"}:
            raise ExperimentError(
                f"{sample.uid} is no picture of a class; CLIP needs data.source classes, and this sample is for another model"
            )
        names = self.names(kind)
        if not 0 <= label < len(names) or names[label] != sample.answer:
            raise ExperimentError(
                f"{sample.uid} is labelled {label} and {sample.answer!r}, which is not so among the {len(names)} {kind} classes"
            )
        return int(label), kind

    def positions(self, example: PictureExample) -> int:
        """Positions of the picture, plus one per class, whose text is read in every step."""
        return 1 + self.towers.patches + len(self.classes.base)

    @property
    def feature_tensors(self) -> tuple[str, ...]:
        """None: `features` stops below the first trained block."""
        return ()

    @property
    def frozen_prefix(self) -> Prefix:
        """The vision tower up to where the adapter begins."""
        settings = ("clip", self.part.prefix_settings, self.pixels.settings, str(self.precision))
        return Prefix(self.towers.vision_modules, settings, lambda example: {"image": example.image})

    @in_precision
    @torch.no_grad()
    def features(self, examples: Sequence[PictureExample]) -> list[Tensor]:
        """Output of the frozen blocks below the first trained one, per picture."""
        like = self.towers.like
        pixels = self.pixels.normal(torch.stack([e.image for e in examples]).to(like.device))
        return list(self.part.features(pixels))

    @in_precision
    def logits(
        self, examples: Sequence[PictureExample], features: Sequence[Tensor] | None, kind: str
    ) -> Tensor:
        """(B, C) over all names of one list, with the loaded tensors, or each example's own client's."""
        feats = self._stacked(examples, features)
        who = Who.owned(self.owners, stacked=True) if self.owners else Who((0,) * len(examples))
        return self.part.logits(feats, self.names(kind), who)

    def _stacked(self, examples: Sequence[PictureExample], features: Sequence[Tensor] | None) -> Tensor:
        """The examples' features (B, ...) on the model's device."""
        rows = self.features(examples) if features is None else features
        return moved(torch.stack(list(rows)), self.towers.like.device)

    def loss(self, examples: Sequence[PictureExample], features: Sequence[Tensor] | None = None) -> Tensor:
        """Mean cross entropy over all base classes, plus the adapter's own term."""
        return self.losses(examples, [0] * len(examples), 1, features)[0]

    @in_precision
    def losses(
        self,
        examples: Sequence[PictureExample],
        owners: Sequence[int],
        count: int,
        features: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The loss of each owner's examples (count,)."""
        if any(e.kind != "base" for e in examples):
            raise ValueError("training is over the base classes, and a sample of a novel one is among them")
        feats = self._stacked(examples, features)
        who = Who.owned(owners)
        logits, extra = self.part.learn(feats, self.classes.base, who)
        labels = placed([e.label for e in examples], logits.device)
        each = cross_entropy(logits, labels, reduction="none")
        owner = placed(owners, logits.device)
        losses = means(each, owner, count)
        if extra is None:
            return losses
        return losses.index_add(0, placed(sorted(set(owners)), logits.device), extra)

    @torch.no_grad()
    def score(
        self, examples: Sequence[PictureExample], features: Sequence[Tensor] | None = None
    ) -> list[tuple[int, int]]:
        """(1, 1) for a right name, (1, 0) for a wrong one."""
        return [
            (1, int(g == e.label)) for g, e in zip(self._guess(examples, features), examples, strict=True)
        ]

    @torch.no_grad()
    def generate(
        self,
        examples: Sequence[PictureExample],
        max_new_tokens: int,
        features: Sequence[Tensor] | None = None,
    ) -> list[str]:
        """The likeliest class's name."""
        guesses = self._guess(examples, features)
        return [self.names(e.kind)[g] for g, e in zip(guesses, examples, strict=True)]

    def _guess(self, examples: Sequence[PictureExample], features: Sequence[Tensor] | None) -> list[int]:
        """Label of the likeliest allowed class, in each example's own list."""
        known = self.features(examples) if features is None else features
        guesses, owners = [0] * len(examples), self.owners
        for kind in sorted({e.kind for e in examples}):
            at = [i for i, e in enumerate(examples) if e.kind == kind]
            self.owners = [owners[i] for i in at] if owners else ()
            logits = self.logits([examples[i] for i in at], [known[i] for i in at], kind)
            for row, i in enumerate(at):
                allowed = examples[i].allowed
                if allowed is not None:
                    out = torch.full_like(logits[row], float("-inf"))
                    out[list(allowed)] = logits[row, list(allowed)]
                    logits[row] = out
            for i, guess in zip(at, logits.argmax(-1).tolist(), strict=True):
                guesses[i] = guess
        self.owners = owners
        return guesses

    @torch.no_grad()
    def classify(self, image: Tensor) -> str:
        """The likeliest name of a picture, uint8 (3, H, W), among all base and novel classes."""
        names = (*self.classes.base, *self.classes.novel)
        features = self.features([PictureExample("query", self.pixels.sized(image), 0, "base")])
        return names[int(self.part.logits(torch.stack(features), names, Who((0,))).argmax())]

    def save_adapters(self, folder: Path) -> None:
        """A safetensors file for each group, and `fedloom.json`, which describes the adapter."""
        clip_io.save(folder, self.exported(), self.adapter, self.classes)

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their travelling names."""
        return clip_io.read(folder)
