"""A native multimodal model as a trainable one: LoRA on the encoder of each modality and on the LLM, and a trained projector.

Groups: `encoder.<modality>`, `llm`, and `projector`, or `projector.<modality>` in a model with several encoders. A tensor's name
is its group and its path in the Hugging Face class.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.dtypes import at_least_float32
from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.streams import torch_stream
from fedloom.data.sample import SAMPLE_RATE, Sample
from fedloom.models.adapter_folder import (
    read_groups,
    read_listing,
    read_prompts,
    save_groups,
    save_prompts,
    write_listing,
)
from fedloom.models.base import Trainable, means
from fedloom.models.batch_rows import RowMap
from fedloom.models.encoders.encoder import tower_of
from fedloom.models.lora.layers import LoRA
from fedloom.models.merged import merge
from fedloom.models.mllm.token_counts import count_tokens
from fedloom.models.native.adapters import Adapter, LLMReached, Probe, adapt, layers_of, probe, projector_of
from fedloom.models.native.clips import note_on
from fedloom.models.native.collate import Batch, collate, moved_to
from fedloom.models.native.processor import FAULTS
from fedloom.models.native.prompt import NativeExample, Reader
from fedloom.models.native.reading import NativeReading, example_of
from fedloom.models.native.rows import RowHooks
from fedloom.models.native.whole import save_whole
from fedloom.models.output_layer import feed_contiguous
from fedloom.models.precision import arithmetic, in_precision, moved, placed


class NativeMLLM(Trainable):
    """`model` is changed in place: its layers get PEFT's adapters, its own weights but the projector's are frozen."""

    def __init__(
        self,
        model: Any,
        reader: Reader,
        modalities: Sequence[str],
        llm_lora: LoRA | None,
        encoder_lora: LoRA | None,
        *,
        seed: int,
        second: bool = False,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Adapters start from the stream of `seed`; None attaches none; `second` adds a personal one to every layer.

        `precision`: the dtype of the model's weights. Trained tensors, the projector's too, become float32.
        Raises ExperimentError for a modality that the model does not read, and where a rank or target does not fit.
        """
        family = reader.family
        if missing := [m for m in modalities if m not in reader.reads]:
            raise ExperimentError(
                f"model.native: {reader.source} reads {' and '.join(reader.reads)}, and the data has {missing[0]}; "
                f"drop {missing[0]} from the data, or take another model"
            )
        model.requires_grad_(False)
        model.eval()
        feed_contiguous(model)
        self.model, self.reader, self.family = model, reader, family
        self.precision = precision
        towers = set(map(tower_of, modalities))
        self.modalities = [m for m in family.towers if m in towers]
        self._videos = ["video"] if "video" in modalities else []
        known = all(family.towers[m].rows is not None for m in self.modalities)
        self.stackable = known and not (self._videos and reader.whole_videos)
        self._adapters: dict[str, Adapter] = {}
        self._rows = RowHooks(model, family, reader.placeholders)
        parts = {f"encoder.{m}": family.towers[m] for m in self.modalities}
        named: dict[str, list[str]] = {group: [] for group in parts}
        if encoder_lora is not None:
            places = {group: (t.path, t.targets, t.projector) for group, t in parts.items()}
            named = layers_of(model, places, encoder_lora)
        projectors: dict[str, list[str]] = {}
        for group, tower in parts.items():
            reached = self._probe(modality := group.removeprefix("encoder."), named[group])
            projectors[modality] = reached.projectors
            if encoder_lora is not None and not reached.layers:
                raise ExperimentError(
                    f"model.native: no layer among the LoRA targets of {group} reaches the LLM; "
                    "name others in model.encoder_lora.targets"
                )
            if encoder_lora is not None:
                self._adapters[group] = adapt(
                    model, tower.path, encoder_lora, reached.layers, group, seed, second
                )
        if llm_lora is not None:
            layers = layers_of(model, {"llm": (family.llm, family.targets, ())}, llm_lora)["llm"]
            self._adapters["llm"] = adapt(model, family.llm, llm_lora, layers, "llm", seed, second)
        model.eval()
        self._entered = projectors
        single = len(family.towers) == 1
        self._projectors = {
            "projector" if single else f"projector.{m}": projector_of(model, paths)
            for m, paths in projectors.items()
        }
        for parameter in (p for named in self._projectors.values() for p in named.values()):
            parameter.data = parameter.data.float()
        tensors = {f"{g}/{n}": p for g, a in self._adapters.items() for n, p in a.factors().items()}
        tensors |= {f"{g}/{n}": p for g, named in self._projectors.items() for n, p in named.items()}
        peft = {f"{g}/{n}": layer for g, a in self._adapters.items() for n, layer in a.layers().items()}
        self.row_wise = [
            m for paths in projectors.values() for p in paths for m in model.get_submodule(p).modules()
        ]
        super().__init__(tensors, peft, {g: a.spec.scale() for g, a in self._adapters.items()})
        self.notes = [f"adapted in {group}: {adapter.summary}" for group, adapter in self._adapters.items()]
        self.notes += [note_on(reader.processor, family) for _ in self._videos]

    @property
    def root(self) -> nn.Module:
        """The model of transformers."""
        return self.model  # type: ignore[no-any-return]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The LLM and the encoder of each modality."""
        towers = {f"the {m} encoder": self.family.towers[m].path for m in self.modalities}
        return {n: self.model.get_submodule(p) for n, p in {"the LLM": self.family.llm, **towers}.items()}

    @property
    def rows(self) -> RowMap:
        """Maps rows of the encoder, projector or LLM at work to examples."""
        return self._rows.now

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def dropout_in(self, groups: frozenset[str]) -> None:
        """LoRA dropout in these groups only; everything else stays in eval mode, batch statistics too."""
        for group, adapter in self._adapters.items():
            for dropout in adapter.dropouts():
                dropout.training = group in groups

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """The LLM for all clients; an encoder's adapter and its projector for clients with that modality."""
        held = {tower_of(m) for m in holds} & set(self.family.towers)
        single = len(self.family.towers) == 1
        return frozenset({"llm"}).union(
            *({f"encoder.{m}", "projector" if single else f"projector.{m}"} for m in held)
        )

    def prepare(self, sample: Sample, client: str | None = None) -> NativeExample:
        """The processor's outputs and the answer's token ids."""
        return self.reader.prepare(sample)

    @cached_property
    def reading(self) -> NativeReading:
        """See `loading.prepared.ReadsFiles`."""
        return NativeReading(self.reader)

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> NativeExample:
        """See `loading.prepared.ReadsFiles`."""
        return example_of(sample, inputs)

    def with_answer(self, example: NativeExample, sample: Sample) -> NativeExample:
        """The example with the answer of `sample` in place of its own; inputs and question stay."""
        return replace(
            example, answer=tuple(self.reader.answers.encode(sample.answer)), reference=sample.answer
        )

    def positions(self, example: NativeExample) -> int:
        """Positions of prompt and answer, plus the rows times tokens of the encoder, taken as one per placeholder."""
        soft = sum(int(example.ids.eq(p).sum()) for p in self.reader.placeholders.values())
        return len(example.ids) + len(example.answer) + soft

    def weight(self, example: NativeExample) -> int:
        """Tokens of all answers, stops included."""
        return len(example.answer) + sum(last - first for first, last in example.earlier)

    @in_precision
    def loss(self, examples: Sequence[NativeExample], features: Sequence[Any] | None = None) -> Tensor:
        """Mean negative log-likelihood of the batch's answer tokens (Eq. 6)."""
        logits, labels, _ = self._answers(examples)
        return cross_entropy(_wide(logits), labels)

    @in_precision
    def losses(
        self,
        examples: Sequence[NativeExample],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood of each owner's answer tokens, those of earlier answers too."""
        logits, labels, index = self._answers(examples)
        owner = placed(owners, index.device)[index]
        return means(cross_entropy(_wide(logits), labels, reduction="none"), owner, count)

    @in_precision
    @torch.no_grad()
    def score(
        self, examples: Sequence[NativeExample], features: Sequence[Any] | None = None
    ) -> list[tuple[int, int]]:
        """Tokens of the last answer (the stop included) and correct ones, teacher forced."""
        logits, labels, index = self._answers(examples, mixed=True, earlier=False)
        tokens, correct = count_tokens(logits.argmax(-1), labels, index, len(examples))
        return list(zip(tokens.tolist(), correct.tolist(), strict=True))

    @in_precision
    @torch.no_grad()
    def generate(
        self, examples: Sequence[NativeExample], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        """Greedy answers, by the family's own `generate`."""
        from transformers import GenerationConfig

        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.reader.stops,
            pad_token_id=self.reader.pad,
        )
        texts = dict.fromkeys(range(len(examples)), "")
        for members in self._passes(examples):
            own = [examples[i] for i in members]
            with self.mixed_by_prompts("llm", own):
                batch = self._collate(own, answers=False)
                ids = self.model.generate(**self._inputs(batch), generation_config=settings)
            texts.update(
                zip(members, self.reader.decode(ids[:, batch.inputs["input_ids"].shape[1] :]), strict=True)
            )
        return list(texts.values())

    @in_precision
    @torch.no_grad()
    def prompt_states(
        self, examples: Sequence[NativeExample], features: Sequence[Any] | None = None
    ) -> Tensor:
        """(B, d_llm): the LLM's last layer at the prompt's last token, the LLM's adapters switched off."""
        last: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            last.append(output[0][:, -1])

        adapter = self._adapters.get("llm")
        hook = self.model.get_submodule(self.family.llm).register_forward_hook(keep)
        passes = self._passes(examples)
        try:
            with nullcontext() if adapter is None else adapter.wrapped.disable_adapter():
                for members in passes:
                    self._forward(self._collate([examples[i] for i in members], answers=False))
        finally:
            hook.remove()
        order = torch.tensor([i for members in passes for i in members]).argsort()
        return torch.cat(last)[order]

    @torch.no_grad()
    def picture_features(self, sample: Sample) -> Tensor:
        """(d,): the encoder's output for a sample's picture as the projector reads it, averaged over its tokens."""
        inputs: list[Tensor] = []

        def into(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs.append(next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)))

        projector = self.model.get_submodule(self._entered["image"][0])
        hooks = [
            projector.register_forward_pre_hook(into, with_kwargs=True),
            self.model.get_submodule(self.family.llm).register_forward_pre_hook(_stop),
        ]
        try:
            self._forward(self._collate([self.prepare(sample)], answers=True))
        except LLMReached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return inputs[0].float().flatten(0, -2).mean(0)

    def save_adapters(self, folder: Path) -> None:
        """`<group>/` in PEFT's format for the whole model, `<group>.safetensors` per projector, and `fedloom.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        specs = {group: adapter.spec for group, adapter in self._adapters.items()}
        save_groups(folder, self.exported(), specs, self.layers)
        for group, named in self._projectors.items():
            save_file(
                {n: p.detach().cpu().contiguous() for n, p in named.items()}, folder / f"{group}.safetensors"
            )
        save_prompts(folder, self.own_prompts)
        listed = {"adapters": sorted(specs), "projectors": sorted(self._projectors)}
        write_listing(folder, listed | {"modalities": [*self.modalities, *self._videos]})

    def save_merged(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
        """The whole model with its processor, as its class of transformers loads it. See Trainable."""
        merge(self)
        for adapter in self._adapters.values():
            adapter.wrapped.unload()
        save_whole(self.model.to(dtypes[""]), self.reader.source, folder)

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their travelling names."""
        listed = read_listing(folder)
        tensors = read_groups(folder, listed["adapters"]) | read_prompts(folder)
        for group in listed["projectors"]:
            tensors |= {f"{group}/{n}": t for n, t in load_file(folder / f"{group}.safetensors").items()}
        return tensors

    def _collate(self, examples: Sequence[NativeExample], *, answers: bool, earlier: bool = True) -> Batch:
        self._rows.start(examples, answers=answers)
        kind = self.family.answer_type
        return collate(examples, self.reader.pad, answers=answers, answer_type=kind, earlier=earlier)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return moved_to(batch.inputs, self.device, self.precision)

    def _forward(self, batch: Batch, **options: Any) -> Any:
        return self.model(**self._inputs(batch), use_cache=False, **options)

    def _answers(
        self, examples: Sequence[NativeExample], *, mixed: bool = False, earlier: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, V) at the answers' N tokens, those tokens' labels (N,), and the example of each (N,), on the model's device.

        The model computes logits at no other position where it can. `mixed`: with FedDPA's weights of the second adapter.
        `earlier`: with the earlier answers of conversations.
        """
        parts = []
        for members in self._passes(examples):
            own = [examples[i] for i in members]
            with self.mixed_by_prompts("llm", own) if mixed else nullcontext():
                batch = self._collate(own, answers=True, earlier=earlier)
                keep, column = torch.unique(batch.predict, return_inverse=True)
                out = self._forward(batch, logits_to_keep=moved(keep, self.device))
            if out.logits.shape[1] != len(keep):  # some classes take the option and ignore it
                column = batch.predict
            parts.append((out.logits[batch.rows, column], batch.labels, torch.tensor(members)[batch.rows]))
        logits, labels, index = (torch.cat(part) for part in zip(*parts, strict=True))
        return logits, moved(labels, self.device), moved(index, self.device)

    def _passes(self, examples: Sequence[NativeExample]) -> list[list[int]]:
        """Indices of the examples of each pass: all of them, or one kind at a time in a family without a row in the table."""
        if self.stackable:
            return [list(range(len(examples)))]
        kinds: dict[tuple[str, ...], list[int]] = {}
        for i, example in enumerate(examples):
            kinds.setdefault(tuple(sorted(example.media)), []).append(i)
        return list(kinds.values())

    def _probe(self, modality: str, layers: Sequence[str]) -> Probe:
        """The reach of a made-up sample. Raises ExperimentError if the model cannot read it."""
        rng = torch_stream(0, "probe", modality)
        if modality == "image":
            raw = torch.randint(0, 256, (3, 64, 64), generator=rng, dtype=torch.uint8)
        else:
            raw = torch.randn(SAMPLE_RATE, generator=rng) * 0.1
        batch = self._collate([self.prepare(Sample("probe", {modality: raw}, "?", "!"))], answers=True)
        inputs, tower = self._inputs(batch), self.family.towers[modality]
        try:
            with arithmetic(self.device, self.precision):
                return probe(self.model, self.family.llm, tower, layers, inputs)
        except FAULTS as error:
            raise ExperimentError(
                f"model.native: {self.reader.source} fails at a sample with {modality}: {reason(error)}"
            ) from error


def _stop(module: nn.Module, args: Any) -> None:
    raise LLMReached


def _wide(logits: Tensor) -> Tensor:
    return at_least_float32(logits)
