"""Ctrl-C and SIGTERM end a run with one sentence that says how to go on, and with the exit code 130 or 143."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.text import Text

from fedloom.cli.output import errors


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """End the process on Ctrl-C or SIGTERM inside the context; `folder` is the run's or study's. Checkpoints stay whole."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        from fedloom.experiment.interruptions import way_on

        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        word = "terminated" if isinstance(stop, Terminated) else "interrupted"
        errors.print(Text(f"fedloom: {word}; {way_on(folder)}"), soft_wrap=True)
        raise SystemExit(128 + number) from stop
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
