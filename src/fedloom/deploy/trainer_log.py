"""Notes of a site's trainer on every message: a line in `logs/trainer.jsonl`, and counts for `deploy site --metrics-port`."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedloom.core.files import write_atomic
from fedloom.core.payload import Limits, PayloadError
from fedloom.core.payload_header import read_numbers
from fedloom.deploy.logs import Log

COUNTS = "trainer-counts.json"


@dataclass
class Counts:
    """The messages of one trainer process, and the seconds that it took over them."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    round: int = 0


_ADAPTER = TypeAdapter(Counts)


def read_counts(folder: Path) -> Counts:
    """The counts in a site's folder; zeros where there are none."""
    try:
        return _ADAPTER.validate_json((folder / COUNTS).read_bytes())
    except (OSError, ValidationError):
        return Counts()


def noted(
    answer: Callable[[bytes], bytes], folder: Path, log: Log, limits: Limits
) -> Callable[[bytes], bytes]:
    """`answer`, with every message logged and counted. Of a failure its kind is logged alone: the reason could quote a sample."""
    counts = Counts()

    def noting(message: bytes) -> bytes:
        began = time.perf_counter()
        reply = answer(message)
        seconds = time.perf_counter() - began
        request, outcome = _numbers(message, limits), _numbers(reply, limits)
        error = outcome.get("error")
        kind = "answered" if error is None else "refused" if _is_refusal(error) else "failed"
        setattr(counts, kind, getattr(counts, kind) + 1)
        counts.seconds += seconds
        counts.round = _whole(request.get("round"))
        log(
            "",
            kind,
            "info" if error is None else "warning",
            run=_short(request.get("run")),
            request=_short(request.get("name")),
            round=counts.round,
            step=_whole(request.get("step")),
            seconds=round(seconds, 4),
            bytes_in=len(message),
            bytes_out=len(reply),
            why=None if error is None else _short(str(error).split(":")[0].split(" ")[0]),
        )
        with suppress(OSError):
            write_atomic(folder / COUNTS, json.dumps(asdict(counts)).encode(), durable=False)
        return reply

    return noting


def _is_refusal(error: object) -> bool:
    return str(error).startswith(("refused", "stale", "unreadable"))


def _numbers(data: bytes, limits: Limits) -> dict[str, Any]:
    """The header's numbers of a message; empty for bytes that are none."""
    try:
        return read_numbers(data, limits)
    except (PayloadError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _short(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
