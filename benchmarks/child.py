"""A figure measured in a process of its own: `python -m benchmarks NAME --child ARGUMENTS` prints it as JSON in the last line."""

import json
import subprocess
import sys
from typing import Any


def child(name: str, *arguments: object) -> Any:
    """The output of this benchmark's child. Ends this process with the child's own last words where it failed."""
    words = [name, "--child", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-20:])
        sys.exit(f"{last}\nbenchmarks {' '.join(words)} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
