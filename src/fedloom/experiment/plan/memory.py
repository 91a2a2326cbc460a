"""Memory of this process, or of its GPU: in use, and the peak since the last reset."""

import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(device: torch.device) -> int:
    """The largest number of bytes in use since the last `reset_peak`; on a system without one, since the process began."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.M):
            return int(found[1]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 0


def reset_peak(device: torch.device) -> None:
    """Begin a new peak at what is in use now, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _REFERENCES.write_text("5")  # Linux: sets VmHWM to the present size


def free(device: torch.device) -> int:
    """Bytes that are free now: the GPU's, or what the system can give without swapping; 0 where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError):
        if found := re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M):
            return int(found[1]) * 1024
    return 0
