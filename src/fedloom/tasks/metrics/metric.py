"""Metrics by name: their unit, how sites' figures are put together, and, for a metric of answers, its score."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fedloom.core.unit import Unit as Unit

Merge = Literal["tokens", "samples", "generated"]
"""The counts that weigh the figures of several sites in their mean."""


@dataclass(frozen=True)
class Metric:
    """A measurement: the last part of a figure's name, such as `exact_match` in `global/image/exact_match`."""

    name: str
    """The last part of a figure's name."""
    title: str | None = None
    """In tables; None = the name with spaces."""
    unit: Unit = "number"
    """Unit of the figures: percent is a share from 0 to 1."""
    merge: Merge | None = "generated"
    """The weights of sites in a mean over their samples; None where no mean of sites' figures is the figure of all."""
    lower_is_better: bool = False
    """Direction of the table's arrow."""
    score: Callable[[str, str], float] | None = None
    """(answer, reference) to the score of a generated answer; None for a metric that is measured elsewhere."""


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """A registry of these metrics."""
    return {metric.name: metric for metric in metrics}


METRICS: dict[str, Metric] = by_name(
    (
        Metric("token_accuracy", unit="percent", merge="tokens"),
        Metric("token_accuracy_sample_mean", unit="percent", merge="samples"),
        Metric("token_accuracy_sample_median", unit="percent", merge=None),
        Metric("loss", merge="tokens", lower_is_better=True),
        Metric("accuracy", unit="percent", merge="samples"),
        Metric("macro_f1", title="macro-F1", unit="percent", merge=None),
        Metric("accuracy_own_classes", unit="percent", merge="samples"),
        Metric("exact_match", unit="percent"),
        Metric("ranked_first", unit="percent", merge=None),
        Metric("f1", title="F1", unit="percent"),
        Metric("bleu", title="BLEU", unit="percent", merge=None),
        Metric("sentence_bleu", title="sentence BLEU", unit="percent"),
        Metric("rouge_l", title="ROUGE-L", unit="percent"),
        Metric("meteor", title="METEOR", unit="percent"),
        Metric("meteor_exact", title="METEOR (exact)", unit="percent"),
        Metric("bertscore_p", title="BERTScore P", unit="percent"),
        Metric("bertscore_r", title="BERTScore R", unit="percent"),
        Metric("bertscore_f", title="BERTScore F", unit="percent"),
        Metric("hm", title="HM", unit="percent", merge=None),
        Metric("hm2", title="HM2", unit="percent", merge=None),
        Metric("success", unit="percent", merge=None, lower_is_better=True),  # an attack's
    )
)
"""Every metric of models by its name; counts and diagnostics are none."""


def metric_of(figure: str) -> Metric | None:
    """The metric of a figure's name; an embedder in brackets belongs to the figure alone."""
    return METRICS.get(figure.rsplit("/", 1)[-1].partition("[")[0])
