"""Question answering: a multimodal LLM with LoRA generates answers to questions about pictures and sounds.

Captioning is the same task with an empty question; projector pre-training is captioning with all other parts frozen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.lazy_mapping import LazyMapping
from fedloom.data.client_data import ClientData
from fedloom.data.sample import MODALITIES, Sample
from fedloom.data.sources.source import Source
from fedloom.data.tabletop.language import ANSWER_SPOKEN
from fedloom.methods import Method
from fedloom.models.base import ReadsWords, Trainable
from fedloom.models.loading.prepared import prepared_like
from fedloom.models.lora.layers import LoRA
from fedloom.models.settings import Foundation
from fedloom.models.sources import public_name
from fedloom.models.training.settings import Training, ever_trained
from fedloom.tasks.backdoor import success, triggered
from fedloom.tasks.base import (
    READ_AHEAD,
    READ_BY_ASSESS,
    READ_FOR_EVERY_TASK,
    READ_FOR_LORA,
    READ_WITH_FOUNDATION,
    Question,
    ServerTools,
    Setup,
    Snapshot,
    Task,
    Trigger,
    needs_no_other_model,
)
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet, evaluate
from fedloom.tasks.metrics import summarise
from fedloom.tasks.usage import llm_code, native_code, whole_code, whole_mllm_code

if TYPE_CHECKING:
    from fedloom.models.mllm.trainable import AdaptedMLLM
    from fedloom.models.native.trainable import NativeMLLM

MOSTLY_UNREAD = 0.5
"""Share of the answers' words that a tokenizer may not know before a run's status says so."""
ASKED_TOGETHER = 16
"""Questions that are answered in one batch."""
Control = Literal["removed", "zeroed", "shuffled"]


@dataclass(frozen=True)
class QuestionAnswering(Task[Source]):
    """Free-text answers by a frozen multimodal LLM with adapters."""

    name: ClassVar[str] = "question-answering"
    title: ClassVar[str] = "a multimodal LLM"
    headline: ClassVar[Mapping[str, str]] = {
        f"global/{kind}/{metric}": ""
        for kind in ("image", "audio")
        for metric in ("token_accuracy", "exact_match")
    }
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        *READ_AHEAD,
        *READ_BY_ASSESS,
        *READ_FOR_LORA,
        *READ_WITH_FOUNDATION,
        *(f"training.{name}" for name in ("schedule", "tau", "rho", "projector", "text_only")),
        *(
            f"model.{name}"
            for name in ("foundation", "encoder", "audio_seconds", "llm", "native", "projector", "tokens")
        ),
        "model.scale",
        *(f"model.{name}" for name in ("prompt", "stop", "max_text_tokens", "quantize", "quantizer")),
        "engine.device_map",
        "model.projector_from*",
        "model.llm_lora*",
        "model.encoder_lora*",
        "evaluation.bertscore",
        "evaluation.gptscore",
        "evaluation.ranking",
        "evaluation.ranked",
    )
    ignores: ClassVar[tuple[str, ...]] = ("method.head",)
    inputs: ClassVar[tuple[str, ...]] = (*MODALITIES, "max_new_tokens")
    answers_in_words: ClassVar[bool] = True
    has_benchmarks: ClassVar[bool] = True

    def keeps_features(self, method: Method, training: Training, rounds: int) -> bool:
        """Those of an encoder that method or schedule leave as it is."""
        names = [f"encoder.{m}/x.{f}" for m in MODALITIES for f in ("lora_A", "lora_B", "lora_R", "lambda_b")]
        frozen = all(method.scope.role(name) == "frozen" for name in names)
        return frozen or "encoder" not in ever_trained(training, rounds)

    def clients(self, setup: Setup) -> list[ClientData]:
        """The source's clients; the encoder is passed for partitions by picture content."""
        return self.source.load(setup.seed, partial(picture_features, setup))

    def adapters(self, foundation: Foundation) -> dict[str, LoRA]:
        """The LoRA shapes of `llm` and `encoder`, if adapted."""
        parts = {"llm": foundation.llm_lora, "encoder": foundation.encoder_lora}
        return {part: spec for part, spec in parts.items() if spec is not None}

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> "AdaptedMLLM | NativeMLLM":
        """The LLM with an encoder trunk for every modality that a client holds."""
        return _loaded(sorted({m for held in holds.values() for m in held}), setup)

    def load(self, folder: Path, setup: Setup) -> "AdaptedMLLM | NativeMLLM":
        """The model with the trunks and tensors in `folder`."""
        description = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
        trunks = [a.removeprefix("encoder.") for a in description["adapters"] if a.startswith("encoder.")]
        model = _loaded(description.get("modalities", trunks), setup)
        model.load(model.read_adapters(folder))
        return model

    def bases(self, foundation: Foundation) -> dict[str, str]:
        """The native model; or the LLM, and the encoder or its towers."""
        if foundation.native is not None:
            return {"": foundation.native}
        if foundation.llm is None:
            from fedloom.models.mllm.load import foundation_folder

            folder = foundation_folder(foundation.foundation)
            towers = sorted(p.parent.name for p in (folder / "encoder").glob("*/config.json"))
            encoder = {f"encoder.{m}": str(folder / "encoder" / m) for m in towers}
            return {"llm": str(folder / "llm"), **(encoder or {"encoder": str(folder / "encoder")})}
        if isinstance(foundation.encoder, str):
            return {"llm": foundation.llm, "encoder": foundation.encoder}
        named = (foundation.encoder or {}).items()
        return {"llm": foundation.llm, **{f"encoder.{m}": source for m, source in named}}

    def usage(self, foundation: Foundation, folder: Path) -> str:
        """Code for the whole model where it is native or merged, else for its LLM."""
        if (folder / "mllm.json").is_file():
            return whole_mllm_code()
        if (folder / "config.json").is_file():
            return whole_code(folder)
        bases = self.bases(foundation)
        return (
            native_code(public_name(bases[""]), folder)
            if "" in bases
            else llm_code(public_name(bases["llm"]), folder)
        )

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> "AnswerEvaluator":
        """Token accuracy, text metrics of generated answers, controls, and a backdoor's success."""
        tests = TestSet.prepare(tested, model)
        patched = None
        if trigger is not None:
            clean = {client: tests.only(client).samples for client in sorted(set(tests.of))}
            with_trigger = TestSet.prepare(triggered(clean, trigger.answer, trigger.patch), model)
            # The feature cache holds the clean samples at these places.
            patched = replace(with_trigger, places=(), whole=())
        return AnswerEvaluator(model, tests, setup.evaluation, patched)

    def answer(self, model: Trainable, question: Question) -> str:
        """The generated answer. Raises ExperimentError without a question, spoken or in words."""
        return self.answers(model, [question])[0]

    def answers(self, model: Trainable, questions: Sequence[Question]) -> list[str]:
        """The generated answers, some questions at a time."""
        samples = [Sample("asked", q.inputs, _words(q), "") for q in questions]
        found: list[str] = []
        for start in range(0, len(samples), ASKED_TOGETHER):
            part = slice(start, start + ASKED_TOGETHER)
            limits = [q.max_new_tokens for q in questions[part]]
            examples = [model.prepare(sample) for sample in samples[part]]
            if len(set(limits)) == 1:
                found += model.generate(examples, limits[0])
            else:
                found += [model.generate([e], n)[0] for e, n in zip(examples, limits, strict=True)]
        return found

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Refuses methods for other models."""
        return needs_no_other_model(method)

    def doubts(self, model: Trainable, clients: Sequence[ClientData]) -> list[str]:
        """The share of the answers' words that the model's tokenizer does not know, if it is most of them."""
        if not isinstance(model, ReadsWords):
            return []
        samples = (s for client in clients for s in client.train)
        share = model.unread_share({t.text for s in samples for t in s.conversation if t.role == "assistant"})
        if share <= MOSTLY_UNREAD:
            return []
        return [f"the model knows {1 - share:.0%} of the answers' words, and reads the others by letters"]

    def benchmark(self, model: Trainable | None, suites: Any) -> dict[str, float]:
        """Metrics on the named suites; see `tasks.benchmark`."""
        from fedloom.tasks.benchmark import measured

        return measured(cast("Trainable", model), suites)


@dataclass(frozen=True)
class AnswerEvaluator:
    """Evaluates a multimodal LLM on test questions; `patched`: test questions with a backdoor's trigger."""

    model: Trainable
    tests: TestSet
    settings: Evaluation
    patched: TestSet | None = None

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Metrics of the common and the personal models, and a backdoor's success rate."""
        assessment = snapshot.assess(self.model, self.tests, self.settings)
        common = snapshot.common or (self.model.start if snapshot.number == 0 else {})
        if self.patched is None or not snapshot.generate or not common:
            return assessment
        attack = success(self.model, common, self.patched, self.settings)
        return replace(assessment, metrics={**assessment.metrics, **attack})

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """`control/...` of the common model as loaded."""
        return (
            measure_controls(self.model, self.tests, self.settings) if common and self.tests.samples else {}
        )


def _words(question: Question) -> str:
    """The question in words. Raises ExperimentError without one, spoken or in words."""
    if question.pair is not None:
        raise ExperimentError("a multimodal LLM reads one question; leave --pair out")
    if not (question.text or "").strip() and "audio" not in question.inputs:
        raise ExperimentError("there is no question; give --question, or --audio with a spoken one")
    return question.text or ANSWER_SPOKEN


def _loaded(modalities: Sequence[str], setup: Setup) -> "AdaptedMLLM | NativeMLLM":
    from fedloom.models.mllm.load import load_model
    from fedloom.models.native.load import load_native

    load = load_model if setup.foundation.native is None else load_native
    model = load(
        setup.foundation,
        modalities,
        setup.device,
        setup.seed,
        second=setup.method.second,
        precision=setup.precision,
        device_map=setup.device_map,
    )
    return setup.applied(model)


@torch.no_grad()
def picture_features(setup: Setup, samples: Sequence[Sample], batch: int = 64) -> Tensor:
    """(N, d), on the CPU: the frozen encoder's mean output for each sample's picture, before any projector."""
    from fedloom.models.mllm.load import load_model
    from fedloom.models.native.load import load_native

    if setup.foundation.native is not None:
        native = load_native(setup.foundation, ["image"], setup.device, setup.seed, precision=setup.precision)
        return torch.stack([native.picture_features(s).cpu() for s in samples])
    model = load_model(setup.foundation, ["image"], setup.device, setup.seed, precision=setup.precision)
    rows = []
    for start in range(0, len(samples), batch):
        examples = [model.prepare(s) for s in samples[start : start + batch]]
        rows += [f["image"].mean(0).float().cpu() for f in model.features(examples)]
    return torch.stack(rows)


def control(tests: TestSet, kind: str, how: Control, model: Trainable) -> TestSet:
    """The test samples of one kind with destroyed inputs, to show that a metric depends on the input.

    removed: no modality; zeroed: silence, a black picture; shuffled: each sample gets the input of the next sample of its
    kind with another answer, which keeps the distribution of inputs.
    """
    chosen = [i for i, s in enumerate(tests.samples) if s.kind == kind]
    samples = [tests.samples[i] for i in chosen]
    changed = []
    for position, sample in enumerate(samples):
        if how == "removed":
            inputs: Mapping[str, torch.Tensor] = {}
        elif how == "zeroed":
            inputs = LazyMapping(tuple(sample.modalities), partial(_zeroed, sample.modalities))
        else:
            inputs = _other(samples, position).modalities
        changed.append(replace(sample, modalities=inputs))
    examples = prepared_like(model, changed, ("control", kind, how), tests.examples)
    return TestSet([tests.of[i] for i in chosen], samples, examples)


def _zeroed(inputs: Mapping[str, Tensor], key: str) -> Tensor:
    return torch.zeros_like(inputs[key])


def _other(samples: Sequence[Sample], position: int) -> Sample:
    """The next sample, cyclically, with another answer; the next one if all answers are equal.

    It has as many inputs of each modality, if there is such a sample.
    """
    order = [*samples[position + 1 :], *samples[:position]]
    held = set(samples[position].modalities)
    order = [s for s in order if set(s.modalities) == held] or order
    differing = (s for s in order if s.answer != samples[position].answer)
    return next(differing, order[0] if order else samples[position])


def measure_controls(model: Trainable, tests: TestSet, settings: Evaluation) -> dict[str, float]:
    """`control/<kind>/<removed|zeroed|shuffled>/<metric>` of the model as loaded."""
    controls: dict[str, float] = {}
    kinds = sorted({s.kind for s in tests.samples if s.modalities})
    for kind in kinds:
        for how in get_args(Control):
            records = evaluate(model, control(tests, kind, how, model), settings, generate=settings.generate)
            metrics = summarise(records, "global").metrics
            for metric in ("token_accuracy", "exact_match", "ranked_first", "loss"):
                if f"global/{kind}/{metric}" in metrics:
                    controls[f"control/{kind}/{how}/{metric}"] = metrics[f"global/{kind}/{metric}"]
    return controls
