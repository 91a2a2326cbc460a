"""Child processes of a deployment: started with telemetry and update checks disabled, ended by process group."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.deploy.private_files import UMASK

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables that disable telemetry, update checks and installations of Flower and its dependencies."""

LARGEST_LOG = 10_000_000
"""Bytes of a process's own output beyond which it is put aside when the process is started again."""


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a Flower program: telemetry off, `home` as FLWR_HOME, its programs on the PATH."""
    home.mkdir(parents=True, exist_ok=True)
    programs = str(Path(sys.executable).parent)
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **QUIET, "FLWR_HOME": str(home.resolve()), "PATH": path, **(more or {})}


def program(name: str) -> str:
    """The path of a Flower program. Raises ExperimentError if it is not installed."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise ExperimentError(f'{name} is not installed; pip install "fedloom[flower]"')
    return path


class Child:
    """A child process with a log file, in a session of its own, so that `stop` also ends its descendants."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.command, self.env, self.log = list(command), dict(env), log
        self.process: subprocess.Popen[bytes] | None = None
        self.starts: list[float] = []
        self._from = 0

    def start(self) -> None:
        """Start or restart the process."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        self.starts.append(time.monotonic())
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - commands of this file's callers, no shell
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=UMASK,
                preexec_fn=end_with_parent,
            )

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.code is None

    @property
    def lasted(self) -> float:
        """Seconds since the last start."""
        return time.monotonic() - self.starts[-1] if self.starts else 0.0

    def stop(self, patience: float = 10.0) -> None:
        """End the process group: SIGTERM, then SIGKILL after `patience` seconds."""
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(self.process.pid, sign)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            break
        _signal_group(self.process.pid, signal.SIGKILL)

    def last_words(self, lines: int = 3) -> str:
        """The last lines of its log since the last start, joined for an error message."""
        return " / ".join(line.strip() for line in self._log_text().strip().splitlines()[-lines:])

    def said(self, text: str) -> bool:
        """Whether its log contains `text` since the last start."""
        return text in self._log_text()

    def recent(self, size: int = 4000) -> str:
        """Up to `size` bytes from the end of its log, none from before the last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(self._from, self.log.stat().st_size - size))
            return log.read(size).decode("utf-8", errors="replace")

    def _log_text(self) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._from :].decode("utf-8", errors="replace")


def _signal_group(pid: int, sign: signal.Signals) -> None:
    try:
        os.killpg(pid, sign)
    except (ProcessLookupError, PermissionError):
        return


def end_with_parent() -> None:
    """Linux: end the child when its parent dies, for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
