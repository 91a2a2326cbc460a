"""A run of two rounds on data and a foundation that are loaded once; only the first call of `run` takes a second."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedloom.experiment import run as runs
from fedloom.experiment.build import build_from
from fedloom.experiment.clients import load_clients
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import Checkpoint, RunFolder

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "method": "fedsa-lora",
    "data": {"clients": {"image": 2}, "train": 4, "test": 1},
    "model": {"llm_lora": {"rank": 4}, "encoder_lora": {"rank": 3}},
    "training": {"batch_size": 4},
    "evaluation": {"controls": False, "samples": 1},
    "engine": {"cohort": "off"},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@contextmanager
def quick_runs() -> Iterator[None]:
    """Inside, `run` takes its model from memory and writes no report."""
    kept: dict[str, Any] = {}

    def clients(experiment: Experiment) -> Any:
        if experiment.data.has_own_files:
            return load_clients(experiment)
        if "clients" not in kept:
            kept["clients"] = load_clients(experiment)
        return kept["clients"]

    def build(experiment: Experiment, sources: Any, folder: RunFolder | None, observe: Any) -> Federation:
        if "federation" not in kept:
            kept["federation"] = build_from(experiment, sources, None, observe)
        known = kept["federation"]
        known.engine.model.load({})
        own = {n: type(c)(c.data, c.groups, c.shapes, c.start) for n, c in known.clients.items()}
        engine = type(known.engine)(known.engine.model, own, experiment.training)
        return Federation(experiment, engine, known.evaluator, folder, observe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load_clients", clients)
        patch.setattr(runs, "build_from", build)
        patch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
        yield


def kill_in_round_two(start: Callable[[], Any]) -> None:
    """Run until the second round's histories are written and its checkpoint is not."""
    save = RunFolder.save

    def killed(folder: RunFolder, checkpoint: Checkpoint) -> None:
        if checkpoint.round == 2:
            raise Killed
        save(folder, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", killed)
        with pytest.raises(Killed):
            start()


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
