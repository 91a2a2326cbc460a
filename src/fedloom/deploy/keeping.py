"""Child processes that are kept running: each is started again after a pause that grows while it keeps ending.

Nothing here gives up. A cause that lasts costs little, because the pauses grow, and one that time mends is over soon.
"""

import random
import time
from collections.abc import Callable

from fedloom.deploy.logs import Log
from fedloom.deploy.processes import Child

FIRST, FACTOR, LONGEST = 2.0, 1.5, 300.0
"""The first pause in seconds, the growth from one to the next, and the longest."""
SPREAD = 0.25
"""Each pause is varied by up to this share, so that the sites of a server do not all return at one moment."""
SETTLED = 60.0
"""Seconds after which a process that ran so long starts again with the first pause."""

Clock = Callable[[], float]


class Pauses:
    """Growing pauses between tries, in seconds."""

    def __init__(self, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._draw = draw
        self._length = FIRST

    def next(self) -> float:
        """The next pause."""
        pause = min(self._length * self._draw(1 - SPREAD, 1 + SPREAD), LONGEST)
        self._length = min(self._length * FACTOR, LONGEST)
        return pause

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._length = FIRST


class Keeper:
    """Keeps one child running; `why` is asked for the reason each time it has ended."""

    def __init__(
        self,
        child: Child,
        why: Callable[[], str],
        log: Log,
        pauses: Pauses | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.child, self.why, self.log, self.clock = child, why, log, clock
        self.pauses = pauses or Pauses()
        self._due: float | None = None

    def tend(self) -> bool:
        """Start the child if it is time; True if it was started. Returns at once, so that one loop can tend several."""
        if self.child.alive:
            return False
        if self._due is None:
            self._due = self._after_end() if self.child.starts else self.clock()
        if self.clock() < self._due:
            return False
        self._due = None
        self.child.start()
        self.log("", "process_started", child=self.child.log.stem, starts=len(self.child.starts))
        return True

    def _after_end(self) -> float:
        """Say why the child has ended; the time of its next start."""
        if self.child.lasted >= SETTLED:
            self.pauses.reset()
        pause, why = self.pauses.next(), self.why()
        self.log(
            f"{why}; started again in {pause:.0f} s", "process_ended", "error", child=self.child.log.stem
        )
        return self.clock() + pause
