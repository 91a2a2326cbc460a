"""A limit on the time of a block, which ends it in the middle of whatever it does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class TimeUp(BaseException):
    """The probe's time is over. No `Exception`, which the engine would take for a client's."""


@dataclass
class Timer:
    """Whether the time was over before the block was."""

    over: bool = False


@contextmanager
def time_limit(seconds: float) -> Iterator[Timer]:
    """Leave the block after so many seconds; without a limit where the system has no alarm, or outside the main thread."""
    timer = Timer()
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield timer
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield timer
    except TimeUp:
        timer.over = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
