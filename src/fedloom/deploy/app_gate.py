"""The gate of a site: Flower's `flwr-clientapp`, which installs and runs the pinned app and no other.

The hash is compared after the app's bytes have arrived and before any of them is unpacked, so that nothing of another app runs.
This module imports no framework, because Flower starts a process for every message.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

APP = "FEDLOOM_APP"
"""Environment variable: the SHA-256 of the pinned app's bundle."""
CLIENT_APP = "flwr-clientapp"
"""The program that runs a site's side of an app."""
TRAINER = "FEDLOOM_TRAINER"
TURNED_AWAY = "turned-away"
"""File beside the trainer's address: what was refused, a line each."""


class AnotherApp(Exception):  # noqa: N818 - Flower shows the class to the server
    """The server sent an app that this site does not run."""


def main(program: str) -> None:
    """Flower's `flwr-clientapp` behind the comparison; any other program of Flower's is refused."""
    if program != CLIENT_APP:
        _note(f"{program} is no program that a site runs")
        sys.exit(1)
    flower = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    guard(flower, os.environ[APP], _note)
    importlib.import_module("flwr.supernode.cli.flwr_clientapp").flwr_clientapp()


def guard(flower: Any, pin: str, note: Callable[[str], None]) -> None:
    """Make Flower's module compare every app with the pin before it installs it.

    The app's name and version count, too: Flower loads what lies under them. Raises RuntimeError if the module has other parts.
    """
    for name in ("pull_task_input", "install_from_fab"):
        if not callable(getattr(flower, name, None)):
            raise RuntimeError(f"this release of Flower has no {name}, where the site would compare the app")
    pull, install = flower.pull_task_input, flower.install_from_fab
    task: list[Any] = []

    def pull_and_keep(client: Any) -> Any:
        task[:] = pull(client)
        return tuple(task)

    def install_the_pinned(content: bytes, *args: Any, **options: Any) -> Any:
        _, _, run, bundle = task
        sent = [h for h in (hashlib.sha256(content).hexdigest(), str(bundle.hash_str)) if h != pin]
        if sent:
            why = f"this site runs the app {pin[:16]} alone, and the server sent {sent[0][:16]}"
            note(why)
            raise AnotherApp(why)
        if (run.fab_id, run.fab_version) != _name_and_version(content):
            why = f"the server names the app {run.fab_id!r} {run.fab_version!r}, which it is not"
            note(why)
            raise AnotherApp(why)
        return install(content, *args, **options)

    flower.pull_task_input, flower.install_from_fab = pull_and_keep, install_the_pinned


def _name_and_version(content: bytes) -> tuple[str, str]:
    """The app's name (publisher/name) and version, as its own settings say."""
    from flwr.common.config import get_fab_config, get_metadata_from_config

    name, version = get_metadata_from_config(get_fab_config(content))
    return name, version


def _note(line: str) -> None:
    """Keep the line where `deploy site` finds it and says it."""
    turned_away(Path(os.environ[TRAINER]).parent, line)


def turned_away(folder: Path, line: str) -> None:
    """Add a line to what was refused at a site."""
    with (folder / TURNED_AWAY).open("a", encoding="utf-8") as file:
        file.write(line.replace("\n", " ")[:300] + "\n")


if __name__ == "__main__":
    sys.argv[:2] = [sys.argv[1]]
    main(sys.argv[0])
