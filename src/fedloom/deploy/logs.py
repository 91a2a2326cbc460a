"""Logs of a deployment's processes: JSON lines in `logs/*.jsonl`, and a line for people on the terminal.

    {"time": "2026-11-30T05:31:00.123+00:00", "level": "info", "process": "trainer", "site": "north",
     "event": "answered", "run": "<32 hex digits>", "round": 3, "seconds": 1.25}

Files are renamed to `*.jsonl.1` and so on at 5 MB, and five of them are kept. No sample, no text and no answer is in them.
"""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal, Protocol

from fedloom.deploy.private_files import private_files

SIZE, FILES = 5_000_000, 5
"""Bytes at which a log is put aside, and the number that is kept beside the current one."""

Field = str | int | float | bool | None
Level = Literal["info", "warning", "error"]


class Log(Protocol):
    """Takes what happens: a line for people (empty: none), the event's name, and its fields."""

    def __call__(self, line: str, event: str = "note", level: Level = "info", **fields: Field) -> None:
        """Log one event."""


class JSONLines(logging.Formatter):
    """A record as one line of JSON in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        fields = {"time": at, "level": record.levelname.lower(), **record.__dict__["fields"]}
        if text := record.getMessage():
            fields["text"] = text
        return json.dumps({name: value for name, value in fields.items() if value is not None})


class EventLog:
    """The log of one process: a file of JSON lines, and either lines for people or the same JSON on standard output."""

    def __init__(
        self,
        file: Path,
        process: str,
        *,
        say: Callable[[str], None] | None = None,
        as_json: bool = False,
        **always: Field,
    ) -> None:
        """`say` shows lines to people; with `as_json` standard output gets the JSON lines instead.

        `always` are fields of every line.
        """
        self._say = None if as_json else say
        self._always = {"process": process, **always}
        self._logger = logging.Logger(process)  # of its own: no handler of a library sees it
        with private_files():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._handle(RotatingFileHandler(file, maxBytes=SIZE, backupCount=FILES, encoding="utf-8"))
        if as_json:
            self._handle(logging.StreamHandler(sys.stdout))

    def __call__(self, line: str, event: str = "note", level: Level = "info", **fields: Field) -> None:
        """Log one event."""
        fields = {**self._always, "event": event, **fields}
        self._logger.log(_LEVELS[level], "%s", line, extra={"fields": fields})
        if line and self._say is not None:
            self._say(line)

    def close(self) -> None:
        """Close the files."""
        for handler in list(self._logger.handlers):
            self._logger.removeHandler(handler)
            with suppress(OSError):  # what a full disk did not take
                handler.close()

    def _handle(self, handler: logging.Handler) -> None:
        handler.setFormatter(JSONLines())
        handler.handleError = lambda record: None  # type: ignore[method-assign] # a full disk ends no process
        self._logger.addHandler(handler)


_LEVELS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
