"""A folder's lock: one process at a time, its number in the refusal, and free again when it dies."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import LOCK, is_locked, locked, try_lock

HOLD = """
import sys, time
from pathlib import Path
from fedloom.core.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_by_the_number_of_the_first_until_that_dies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(ExperimentError, match=f"run is in use by process {holder.pid};"), locked(folder):
            pass
        with try_lock(folder) as free:
            assert not free
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with locked(folder):  # the file of the dead process is still there
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_of_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="cannot write to the output folder"), locked(tmp_path / "file"):
        pass


def test_a_look_at_the_lock_changes_nothing_and_disturbs_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not is_locked(folder)
    assert not folder.exists()
    with locked(folder):
        holder = (folder / LOCK).read_text()
        assert is_locked(folder)
        assert is_locked(folder)
        assert (folder / LOCK).read_text() == holder
    assert not is_locked(folder)
    onlooker = os.open(folder / LOCK, os.O_RDONLY)
    fcntl.flock(onlooker, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [onlooker]).start()
    with locked(folder):  # waits for the moment of a look
        assert is_locked(folder)
