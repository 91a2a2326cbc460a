"""The functions that run in a loader process."""

import os
import signal
from multiprocessing import connection, parent_process
from threading import Thread

import torch

from fedloom.core.tensor_files import with_checksum
from fedloom.data.sample import Sample
from fedloom.models.loading.reading import Reading

_readings: list[Reading] = []
"""The reading of this process, at most one."""


def start(reading: Reading) -> None:
    """Set a new loader up: one thread, the arithmetic of the main process, no share in Ctrl-C, an end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _readings[:] = [reading]
    Thread(target=_end_with_parent, daemon=True).start()


def read(sample: Sample) -> bytes | None:
    """The sample's preprocessed inputs as the bytes of a tensor file; None where they raise: the main process says why."""
    try:
        return with_checksum(_readings[0](sample))
    except Exception:
        return None


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
