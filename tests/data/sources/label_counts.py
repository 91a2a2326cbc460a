"""Label counts of a part's samples."""

from collections import Counter
from collections.abc import Sequence

from fedloom.data.sample import Sample


def label_counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Number of samples of each label, in the task's order."""
    count = Counter(sample.answer for sample in samples)
    return {label: count[label] for label in (samples[0].meta["labels"] if samples else ())}
