"""The Flower app of a deployment: it names two objects of the installed fedloom and holds no code. Its hash pins it.

A SuperNode runs whatever app the server submits. So a site computes the hash of the one app that it runs from its own fedloom,
shows it in its terms, and starts Flower's programs through gates (`app_gate`) that compare it first.
"""

import hashlib
import os
import shlex
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from fedloom.core.files import write_atomic
from fedloom.deploy.app_gate import CLIENT_APP
from fedloom.deploy.processes import QUIET

OTHERS = ("flwr-serverapp", "flwr-simulation", "flwr-agentapp", "flwr-model", "flwr-connector")
"""Flower's other programs, which no site needs."""


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


def write_gates(folder: Path) -> Path:
    """A folder of programs to stand first on the PATH: a gate before `flwr-clientapp`, a refusal for the others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CLIENT_APP, *OTHERS):
        file = folder / name
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as program:
            program.write(
                f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fedloom.deploy.app_gate {name} "$@"\n'
            )
    return folder
