"""The lock of a server's folder: one `fedloom deploy server` at a time, which other commands can see."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import holder, is_locked, try_lock
from fedloom.deploy.private_files import private_files

STATE = "state"
"""The folder in the server's folder that is locked."""


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Be the folder's server inside the context. Raises ExperimentError while another process is."""
    with private_files():
        (folder / STATE).mkdir(exist_ok=True)
    with try_lock(folder / STATE) as mine:
        if not mine:
            raise ExperimentError(
                f"the server of {folder} runs already (process {holder(folder / STATE)}); stop that one first"
            )
        yield


def server_runs(folder: Path, patience: float = 0.0) -> bool:
    """Whether the folder's server runs; one that is just being started is waited for, `patience` seconds."""
    until = time.monotonic() + patience
    while not is_locked(folder / STATE):
        if time.monotonic() >= until:
            return False
        time.sleep(0.2)
    return True
