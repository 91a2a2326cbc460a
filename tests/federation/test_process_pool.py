"""Worker processes: killed in a round, orphaned, shared weights that nobody writes to, resumed with another number."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.experiment.build import build
from fedloom.experiment.clients import load_clients
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.experiment.workers import make_worker
from fedloom.federation.process_pool import ProcessPool
from fedloom.federation.progress import Progress
from fedloom.federation.worker import CohortWork, identity
from fedloom.models import shared_weights
from tests.processes import processes_below, running

FIELDS: dict[str, Any] = {
    "rounds": 2,
    "method": "fedex-lora",
    "data": {"clients": {"image": 1, "text": 2}, "train": 4, "test": 1},
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": {"rank": 2}},
    "training": {"batch_size": 4},
    "evaluation": {"generate": False, "controls": False, "samples": 0},
    "engine": {"cohort": "off", "threads": 1, "device": "cpu"},
}
SCRIPT = """
import fedloom, os, signal
fields = {fields!r}
def observe(progress):
    if progress.round == 2 and progress.client:
        os.kill(os.getpid(), signal.SIGKILL)
print("begun", flush=True)
fedloom.run(fedloom.Experiment(**fields), {out!r}, observe=observe)
"""


def fields(**engine: Any) -> dict[str, Any]:
    return {**FIELDS, "engine": {**FIELDS["engine"], **engine}}


def end(folder: Path) -> dict[str, Any]:
    files = sorted(p for p in (folder / "model").rglob("*.safetensors"))
    metrics = (folder / "metrics.jsonl").read_bytes()
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files} | {"metrics": metrics}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run(Experiment.parse(fields()), folder)
    return end(folder)


@pytest.mark.slow
def test_a_worker_killed_in_a_round_changes_nothing_but_a_note(local, tmp_path, monkeypatch) -> None:
    """FedEx merges residuals into the base, which the workers share."""
    kept: list[ProcessPool] = []
    killed: list[int] = []
    start, send = ProcessPool.open, ProcessPool.send
    monkeypatch.setattr(ProcessPool, "open", lambda self, *given: kept.append(self) or start(self, *given))

    def send_and_kill(self: ProcessPool, worker: int, cohort: CohortWork) -> None:
        send(self, worker, cohort)
        if cohort.at.number == 2 and not killed:
            killed.append(worker)
            os.kill(self._slots[worker].process.pid, signal.SIGKILL)

    monkeypatch.setattr(ProcessPool, "send", send_and_kill)
    contents: list[bytes] = []

    def observe(progress: Progress) -> None:
        if progress.client is not None:
            region = kept[0]._region
            contents.append(hashlib.sha256(os.pread(region._file, region.nbytes, 0)).digest())

    run(Experiment.parse(fields(workers=2)), tmp_path / "run", observe=observe)
    assert end(tmp_path / "run") == local
    assert len(contents) == 6
    assert len(set(contents)) == 1, "nobody has written to the shared weights"
    ledger = (tmp_path / "run" / "ledger.jsonl").read_text()
    assert ledger.count("was ended by SIGKILL with") == 1
    assert '"refused": {}' in ledger
    assert kept[0].idle() == [], "the workers ended with the run"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_killed_run_that_one_process_can_resume(local, tmp_path) -> None:
    """The script has no guard: workers do not run it again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(fields=fields(workers=1), out=str(tmp_path / "run")))
    starter = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    family: set[int] = set()
    while starter.poll() is None:
        family |= set(processes_below(starter.pid))
        time.sleep(0.2)
    assert starter.returncode == -signal.SIGKILL
    assert starter.stdout is not None
    assert starter.stdout.read() == "begun\n"
    assert len(family) > 1, "there were workers"
    until = time.monotonic() + 30
    while any(map(running, family)):
        assert time.monotonic() < until, "the workers outlived the run"
        time.sleep(0.1)
    run(Experiment.parse(fields()), tmp_path / "run", resume=True)
    assert end(tmp_path / "run") == local


def test_frozen_weights_move_into_memory_that_others_map_and_keep_their_bits() -> None:
    chosen = Experiment.parse(fields())
    federation = build(chosen, None, lambda told: None)
    model = federation.engine.model
    before = {n: p.detach().clone() for n, p in model.root.named_parameters()}
    weights, region = shared_weights.share(model) or pytest.fail("nothing to share")
    assert all(torch.equal(p, before[n]) for n, p in model.root.named_parameters())
    frozen = sum(before[n].numel() * before[n].element_size() for n in weights.places)
    assert frozen / sum(t.numel() * t.element_size() for t in before.values()) > 0.9
    assert region.nbytes - frozen < 64 * len(weights.places)

    other = build(chosen, None, lambda told: None).engine.model
    shared_weights.borrow(other, weights)
    name, parameter = next(shared_weights.frozen(other))
    assert all(torch.equal(p, before[n]) for n, p in other.root.named_parameters())
    with torch.no_grad():
        parameter += 1.0  # whoever writes has a page of its own
    assert torch.equal(dict(model.root.named_parameters())[name], before[name])
    with pytest.raises(ExperimentError, match="a worker has other frozen weights than the run"):
        shared_weights.borrow(other, weights)


def fails(number: int) -> Any:
    raise ExperimentError(f"worker {number} finds no data")


def has_no_room(number: int) -> Any:
    raise DiskError("the disk of a worker is full")


def dies(number: int) -> Any:
    os._exit(9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (fails, "worker 0 finds no data"),
        (has_no_room, "the disk of a worker is full"),
        (dies, "engine.workers: a worker ended with exit code 9 while it started, 3 times"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run_in_one_sentence(make, sentence) -> None:
    pool = ProcessPool(make, 1)

    def wait() -> None:
        while True:
            for event in pool.events():
                pool.renew(event.worker)

    with pytest.raises(DiskError if make is has_no_room else ExperimentError, match=sentence):
        wait()
    pool.close()


def test_a_worker_is_built_from_the_experiment_alone() -> None:
    worker = make_worker(Experiment.parse(fields(workers=2)), load_clients, 2, True, None, 1)
    federation = build(Experiment.parse(fields()), None, lambda told: None)
    worker.check(identity(federation.engine.model, federation.clients))
