"""Formatting of figures: units (percent, bytes, seconds), direction, mean and spread over seeds, and metric names in words."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fedloom.core.terminal_tables import NBSP
from fedloom.tasks.metrics.metric import Unit, metric_of
from fedloom.tasks.metrics.summary import COUNTS

_WORDS = {
    "cosine_A": "similarity of A",
    "cosine_B": "similarity of B",
    "cosine_change_A": "similarity of A's changes",
    "cosine_change_B": "similarity of B's changes",
    "cosine_change": "similarity of the updates",
    "restoration_error_before": "restoration error before the solve",
    "norm_ratio": "norm ratio of B",
    "above_majority": "above majority from round",
    "llm": "LLM",
    "imu": "IMU",
    "fid": "FID",
    "kid": "KID",
    "clip_score": "CLIP score",
    "rank99": "rank",
    "max_weight": "largest weight",
    "update_norm": "update norm of the factors",
    "change_norm": "update norm",
    "cosine_min": "lowest cosine",
    "opposed": "opposed pairs",
}

_UNITS: dict[str, Unit] = {
    "bytes_up": "bytes",
    "bytes_down": "bytes",
    "seconds": "seconds",
    "rounds": "count",
    "trainable_parameters": "count",
    "shared_parameters": "count",
    "above_majority": "count",
    "fusion/*rank99": "count",
    "fusion/*weight": "percent",
    "vote/*": "percent",
    "generator/agreement": "percent",
    "update/opposed": "percent",
}
"""Units of figures that are no metrics of models, by pattern."""

_BETTER = {
    "generator/agreement": "↑",
    "generator/clip_score": "↑",
    "generator/fid": "↓",
    "generator/kid": "↓",
    "vote/precision": "↑",
    "vote/prompt_accuracy": "↑",
    "fusion/*alignment_error": "↓",
    "restoration_error*": "↓",
}
"""Direction of better values of figures that are no metrics of models, by pattern; costs and the others have none."""


@dataclass(frozen=True)
class Spread:
    """Mean over `n` seeds; `sd` is the sample standard deviation (divisor n - 1), None for a single seed."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Mean and sample standard deviation of one or more values; the mean is NaN if any value is not finite."""
        if not all(math.isfinite(v) for v in values):
            return cls(math.nan, None, len(values))
        return cls(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
        )


def unit_of(name: str) -> Unit:
    """The unit in which a metric or a summary field is shown."""
    if name.rsplit("/", 1)[-1] in COUNTS:
        return "count"
    metric = metric_of(name.removesuffix("_sd"))
    known = next((unit for pattern, unit in _UNITS.items() if fnmatchcase(name, pattern)), None)
    return known or ("number" if metric is None else metric.unit)


def arrow(name: str) -> str:
    """ " ↑" where a higher value is better, " ↓" where a lower one is, with a non-breaking space; empty where neither is."""
    known = next((sign for pattern, sign in _BETTER.items() if fnmatchcase(name, pattern)), None)
    metric = metric_of(name)
    if known is None and metric is not None:
        known = "↓" if metric.lower_is_better else "↑"
    return "" if known is None else f"{NBSP}{known}"


def scale_of(value: float, unit: Unit) -> tuple[float, str]:
    """Divisor and unit symbol for displaying `value` (decimal bytes: 1 kB = 1000 B)."""
    if unit == "percent":
        return 0.01, "%"
    if unit == "bytes":
        for size, sign in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= size:
                return size, sign
        return 1.0, "B"
    if unit == "seconds":
        return (3600.0, "h") if value >= 7200 else (60.0, "min") if value >= 120 else (1.0, "s")
    return 1.0, ""


def _digits(value: float, unit: Unit, sign: str, like: float | None = None) -> str:
    """A number without its unit; a plain one in powers of ten if it, or the mean beside it (`like`), is small or large."""
    if unit == "percent":
        return f"{value:.1f}"
    if unit == "bytes":
        return f"{value:.0f}" if sign == "B" else f"{value:.2f}"
    if unit == "seconds":
        return f"{value:.1f}"
    if unit == "count":
        return (
            f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
        )  # a mean over seeds may lie between
    size = abs(value if like is None else like)
    if size and (size < 1e-3 or size >= 1e6):
        return f"{value:.2e}"
    return f"{value:,.4f}"


def show(spread: Spread | float | None, unit: Unit) -> str:
    """A figure with its unit: "61.0 ± 2.1 %", "3.40 MB", "not finite", or a dash for None."""
    if spread is None:
        return "—"
    if not isinstance(spread, Spread):
        spread = Spread(float(spread), None, 1)
    if not math.isfinite(spread.mean):
        return "not finite"
    divisor, sign = scale_of(spread.mean, unit)
    text = _digits(spread.mean / divisor, unit, sign)
    # bytes and counts usually agree over seeds: a zero spread is omitted
    if spread.sd is not None and not (unit in ("bytes", "count") and spread.sd == 0):
        text += f" ± {_digits(spread.sd / divisor, unit, sign, spread.mean / divisor)}"
    return f"{text} {sign}".strip()


def show_interval(low: float, high: float, unit: Unit, *, signed: bool = False) -> str:
    """An interval without its unit: "[59.2, 62.8]", with `signed` "[-1.2, +1.8]"."""
    divisor, sign = scale_of(max(abs(low), abs(high)), unit)
    ends = [_digits(end / divisor, unit, sign) for end in (low, high)]
    if signed:
        ends = [_plus(text) for text in ends]
    return f"[{', '.join(ends)}]"


def show_signed(value: float, unit: Unit) -> str:
    """A difference without its unit, with its sign: "+0.3"."""
    divisor, sign = scale_of(value, unit)
    return _plus(_digits(value / divisor, unit, sign))


def _plus(text: str) -> str:
    """A number's text with its sign; zero has none."""
    return (
        text
        if text.startswith("-") and text.strip("-0.,")
        else f"+{text}"
        if text.strip("-0.,")
        else text.lstrip("-")
    )


def human_bytes(value: float) -> str:
    """Bytes in decimal units: 999 -> "999 B", 1500 -> "1.50 kB"."""
    return show(value, "bytes")


def words(name: str) -> str:
    """A metric name in words: "global/image/token_accuracy" -> "image: token accuracy"."""
    parts = [_word(part) for part in name.split("/")]
    if parts[0] == "global" and len(parts) > 1:
        parts = parts[1:]
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])}: {parts[-1]}"


def _word(part: str) -> str:
    """One part of a metric name in words; text in brackets, such as a model's name, is unchanged."""
    plain, bracket, rest = part.partition("[")
    metric = metric_of(plain)
    title = None if metric is None else metric.title
    text = title or _WORDS.get(plain, plain.replace("_", " "))
    return f"{text} [{rest}" if bracket else text
