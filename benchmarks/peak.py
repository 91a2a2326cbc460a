"""Peak memory of this process."""

import resource
import sys
from pathlib import Path


def most_resident() -> int:
    """The most bytes that this process ever held, from VmHWM where there is one: `ru_maxrss` begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
