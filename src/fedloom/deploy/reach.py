"""News for a site's people while it is cut off: from the server, or its node from its trainer."""

import time
from collections.abc import Callable
from pathlib import Path

FAILED, CONNECTED = "Connection attempt failed", "Connection successful"
"""Flower's log messages of a try that failed, and of the first that succeeds after one."""
FIRST, FACTOR, LONGEST = 10.0, 2.0, 3600.0
"""Seconds until an unreachable server is said, the growth of the time until it is said again, and the longest such time."""


class Reach:
    """Tells whether the server can be reached, from the end of the node's log."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`server`: host:port."""
        self.server, self.clock = server, clock
        self.reached = True
        self._since: float | None = None
        self._next, self._pause = 0.0, FIRST

    def news(self, log: str, lasted: float) -> str | None:
        """A sentence when there is something to say. `log`: the node's, since its start `lasted` seconds ago."""
        failed, connected = log.rfind(FAILED), log.rfind(CONNECTED)
        if failed > connected:
            return self._cut_off()
        quiet = failed < 0 and connected < 0
        if self._since is None or (quiet and lasted < FIRST):
            return None
        self._since, told = None, not self.reached
        self.reached = True
        return f"the server at {self.server} is reached again" if told else None

    def _cut_off(self) -> str | None:
        now = self.clock()
        if self._since is None:
            self._since, self._pause = now, FIRST
            self._next = now + FIRST
        if now < self._next:
            return None
        self.reached = False
        self._pause = min(self._pause * FACTOR, LONGEST)
        self._next = now + self._pause
        return (
            f"the server at {self.server} cannot be reached, for {now - self._since:.0f} s so far; the site goes on trying. Ask "
            "whether the server and its proxy run, and whether this machine may connect to them"
        )


class TrainerFile:
    """The file by which the node finds the trainer, which something else may remove."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._seen = False

    def is_lost(self) -> bool:
        """Whether it is gone since either method last saw it; true once for each time."""
        seen, self._seen = self._seen, self.file.is_file()
        return seen and not self._seen

    def is_there(self) -> bool:
        """Whether it is there now."""
        there = self.file.is_file()
        self._seen = self._seen or there
        return there

    def sentence(self, part: str) -> str:
        """For the people of the site; `part` is the half that runs here."""
        follows = (
            "messages wait for the trainer to start again"
            if part == "node"
            else "the trainer is started again"
        )
        return f"{self.file}, by which the node finds the trainer, is gone; {follows}"
