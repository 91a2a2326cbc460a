"""The figures of a round for trackers: those of `metrics.jsonl`, and what the ledger counts."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

COUNTS = ("bytes_up", "bytes_down", "seconds")
LISTS = ("asked", "answered", "refused", "left_out")


def of_round(
    metrics: Mapping[str, float],
    entries: Iterable[Mapping[str, Any]],
    own: Mapping[str, Mapping[str, float]],
    hidden: Collection[str] = (),
) -> dict[str, float]:
    """Figures by name: the round's own, `round/...` of its requests together, and `client/<name>/...` of clients' `own`.

    Figures that name a `hidden` client are left out, and numbers that are not finite.
    """
    figures = dict(metrics)
    listed = list(entries)
    if listed:
        figures |= {f"round/{name}": sum(entry.get(name, 0) for entry in listed) for name in COUNTS}
        figures |= {f"round/{name}": sum(len(entry.get(name, ())) for entry in listed) for name in LISTS}
    figures |= {f"client/{name}/{f}": v for name, values in own.items() for f, v in values.items()}
    names = {*hidden}
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and math.isfinite(value) and names.isdisjoint(name.split("/"))
    }


def of_end(metrics: Mapping[str, float], privacy: Mapping[str, Any] | None) -> dict[str, float]:
    """Figures that a finished run alone has: its controls, and the privacy spent."""
    figures = {name: value for name, value in metrics.items() if name.startswith("control/")}
    spent = (privacy or {}).get("spent") or {}
    figures |= {f"privacy/{name}": spent[name] for name in ("epsilon", "delta") if name in spent}
    return of_round(figures, (), {})
