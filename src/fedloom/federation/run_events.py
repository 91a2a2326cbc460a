"""A run's events and current work, written for whoever watches its folder; no run reads them.

`state/events.jsonl` has a line when a process begins or resumes the run, when a round ends, and when the process ends and can
still say so. `state/doing.json` is what is being done. Times are seconds since 1970.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedloom.core.activity import also_told_to
from fedloom.core.files import write_atomic
from fedloom.core.plain_text import plain
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Progress, Stopped

EVENTS, DOING = "events.jsonl", "doing.json"
OFTEN = 0.25
"""Least number of seconds between two texts that differ in their numbers alone."""


@contextmanager
def recorded(federation: Federation, *, resumed: bool) -> Iterator[None]:
    """Record what the federation does inside the context, in its run folder; a full disk stops the records alone."""
    if federation.folder is None:
        yield
        return
    events, observe = _Events(federation.folder.state), federation.observe
    after = federation.round if federation.resumed else -1
    events.add("resumed" if resumed else "begun", after=after, clients=_clients(federation))

    def observed(progress: Progress) -> None:
        events.observe(progress)
        observe(progress)

    federation.observe = observed
    try:
        with also_told_to(events.tell):
            yield
    except Exception as error:
        events.add("failed", why=plain(str(error) or type(error).__name__))
        raise
    except BaseException as error:
        named = {KeyboardInterrupt: "interrupted", Stopped: "on request"}
        why = named.get(type(error), type(error).__name__)
        events.add("stopped", why=why)
        raise
    events.add("ended")


class _Events:
    """Writes the two files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answers, self._stage, self._told = 0, "", 0.0
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, ensure_ascii=True)
        with suppress(OSError), (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def observe(self, progress: Progress) -> None:
        if progress.client is None:
            self._answers = 0
            self.add("round", round=progress.round, rounds=progress.rounds)
            return
        self._answers += 1
        of = max(progress.clients, 1)
        nth = (self._answers - 1) % of + 1  # some methods ask twice in a round
        self.tell(f"round {progress.round}/{progress.rounds}, {nth} of {of} clients answered")

    def tell(self, text: str) -> None:
        stage, now = re.sub(r"\d+", "", text), time.monotonic()
        if stage == self._stage and now - self._told < OFTEN:
            return
        self._stage, self._told = stage, now
        fields = json.dumps({"text": plain(text), "time": round(time.time(), 3)})
        with suppress(OSError):
            write_atomic(self.folder / DOING, fields.encode(), durable=False)


def _clients(federation: Federation) -> Mapping[str, Mapping[str, Any]]:
    """The modalities and sample counts of every client whose data are here."""
    tests = Counter(getattr(getattr(federation.evaluator, "tests", None), "of", ()))
    return {
        name: {"holds": list(data.holds), "train": len(data.train), "test": tests.get(name, len(data.test))}
        for name in federation.names
        if (data := federation.clients[name].data).train or data.test or tests.get(name)
    }
