"""A metric of one's own: the answer's length over the reference's, in words."""

from fedloom.tasks.metrics.metric import Metric

LENGTH = Metric(
    "toy_length",
    title="length",
    unit="percent",
    score=lambda answer, reference: len(answer.split()) / max(len(reference.split()), 1),
)
