"""Success rate of a backdoor: the common model's answers to pictures with the trigger."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedloom.data.poison import SUCCESS, trigger
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable
from fedloom.tasks.evaluation import Evaluation, TestSet, evaluate
from fedloom.tasks.metrics.text import exact_match


def triggered(parts: Mapping[str, Sequence[Sample]], answer: str, size: float) -> dict[str, list[Sample]]:
    """Test samples with pictures whose true answer differs from the attacker's, with the patch and the attacker's answer."""
    true = {
        client: [s for s in samples if "image" in s.modalities and not exact_match([s.answer], [answer])[0]]
        for client, samples in parts.items()
    }
    return {
        client: [trigger(s, answer, size) for s in samples] for client, samples in true.items() if samples
    }


def success(
    model: Trainable, common: Mapping[str, Tensor], tests: TestSet, settings: Evaluation
) -> dict[str, float]:
    """`attack/success`: the share of triggered test samples to which the common model gives the attacker's answer."""
    model.load(common)
    records = evaluate(model, tests, settings, generate=True)
    hits = exact_match([r.prediction or "" for r in records], [r.reference for r in records])
    return {SUCCESS: sum(hits) / len(hits)} if records else {}
