"""Interrupted runs: a fault of the disk as one sentence, and how to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.files import disk_fault
from fedloom.federation.run_folder import RunFolder


@contextmanager
def disk_faults(folder: RunFolder) -> Iterator[None]:
    """Raise an error of the disk, or of safetensors, as one sentence that says how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if (fault := disk_fault(error)) is None:
            raise ExperimentError(f"a file of tensors cannot be used: {error}") from error
        raise DiskError(
            f"the run in {folder.path} stopped ({fault}); once that is mended, {way_on(folder.path)}"
        ) from error


def way_on(folder: Path) -> str:
    """The way to go on with an interrupted run or study, as the end of a sentence."""
    if any((folder / name).exists() for name in ("experiment.yaml", "plan.json")):
        return f"`fedloom run --resume {folder}` goes on from the last finished round"
    return "begin the run again"
