"""The Flower app of a deployment: it names two objects of the installed fedloom and holds no code. Its hash pins it.

The server runs it; a site runs no app at all. A site computes the hash from its own fedloom, shows it in its terms, and answers
the messages of a run of this app alone (`flower_node`).
"""

import hashlib
import os
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from fedloom.core.files import write_atomic
from fedloom.deploy.processes import QUIET


def write_app(folder: Path) -> None:
    """Write the app's files; the folder may be new."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in (("pyproject.toml", "pyproject.toml"), ("README.md", "app-readme.md")):
        data = (files("fedloom") / "deploy" / "templates" / template).read_bytes()
        write_atomic(folder / name, data)


@cache
def pinned_app() -> str:
    """SHA-256 of the bundle that Flower makes of this fedloom's app, 64 hex digits; equal on every machine."""
    for name, value in QUIET.items():  # Flower reads them where it is imported
        os.environ.setdefault(name, value)
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory(prefix="fedloom-app-") as folder:
        write_app(Path(folder))
        return hashlib.sha256(build_fab_from_disk(Path(folder))).hexdigest()
