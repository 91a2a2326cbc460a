"""Client data, the output of every data source: named clients with training and test samples of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedloom.data.sample import Sample, modalities_of

Holding = Literal["image", "audio", "both", "text"]
"""The modalities of a generated client."""


@dataclass(frozen=True)
class ClientData:
    """One silo's data. `train` may be empty for a client that is only evaluated."""

    name: str
    """The client's name, which is a folder's name, too."""
    train: Sequence[Sample]
    """Samples that the client trains on."""
    test: Sequence[Sample]
    """Samples that nobody trains on."""
    skipped: Sequence[str] = ()
    """One sentence per sample that was left out because its file cannot be used; samples that no client would hold, such as
    those of common test sets, stand with the first client."""
    notes: Sequence[str] = ()
    """Remarks on how the data were read, such as guessed columns; those on all clients' data stand with the first client."""

    @property
    def holds(self) -> tuple[str, ...]:
        """The modalities that occur in the client's samples, in the fixed order; empty for text alone."""
        return modalities_of(
            m for part in (self.train, self.test) for sample in part for m in sample.modalities
        )
