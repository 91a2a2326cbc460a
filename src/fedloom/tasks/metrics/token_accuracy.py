"""Token accuracy: the share of answer positions whose most probable token is the label, under teacher forcing."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import fsum
from statistics import median

from torch import Tensor


@dataclass(frozen=True)
class TokenAccuracy:
    """Integer counts per sample; `+` merges batches exactly, in any sizes and order."""

    tokens: tuple[int, ...] = ()
    correct: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.correct):
            raise ValueError(f"{len(self.tokens)} token counts but {len(self.correct)} correct counts")
        if any(not 0 <= hits <= total for total, hits in zip(self.tokens, self.correct, strict=True)):
            raise ValueError("a sample's correct tokens must lie between 0 and its tokens")

    @classmethod
    def of(cls, tokens: Iterable[int] | Tensor, correct: Iterable[int] | Tensor) -> "TokenAccuracy":
        """From per-sample counts: tensors `(n,)`, as `count_tokens` returns them, or any integers."""
        lists = (v.tolist() if isinstance(v, Tensor) else v for v in (tokens, correct))
        return cls(*(tuple(map(int, values)) for values in lists))

    def __add__(self, other: "TokenAccuracy") -> "TokenAccuracy":
        return TokenAccuracy(self.tokens + other.tokens, self.correct + other.correct)

    @property
    def total(self) -> int:
        """Number of answer tokens."""
        return sum(self.tokens)

    @property
    def micro(self) -> float:
        """Correct tokens / tokens over the whole corpus, in [0, 1]; NaN without a token."""
        return float(Fraction(sum(self.correct), self.total)) if self.total else float("nan")

    @property
    def per_sample(self) -> list[float]:
        """Each sample's share in [0, 1], without the samples that have no answer token."""
        return [hits / total for total, hits in zip(self.tokens, self.correct, strict=True) if total]

    @property
    def mean(self) -> float:
        """Unweighted mean of the samples' shares; NaN without a token."""
        shares = self.per_sample
        return fsum(shares) / len(shares) if shares else float("nan")

    @property
    def median(self) -> float:
        """Median of the samples' shares; NaN without a token."""
        return median(self.per_sample) if self.total else float("nan")

    def metrics(self) -> dict[str, float]:
        """The metrics by name; empty without a token, so that only measured values are reported."""
        if not self.total:
            return {}
        return {
            "token_accuracy": self.micro,
            "token_accuracy_sample_mean": self.mean,
            "token_accuracy_sample_median": self.median,
            "tokens": float(self.total),
        }
