"""The local engine under SIGKILL, full disks and damaged files: the same model, or one clear sentence."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.tensor_files import digest_of, read_checked, with_checksum
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation import client_states as personal
from fedloom.federation import loop as federation
from fedloom.federation import run_folder as runfolder
from fedloom.federation.run_folder import RunFolder
from fedloom.methods.fedsa_lora import FedSALoRA
from fedloom.models.training import loop as work
from fedloom.tasks import base as tasks

SETTINGS = {
    "rounds": 2,
    "method": "fedsa-lora",
    "data": {"clients": {"image": 2}, "train": 6, "test": 1},
    "model": {"llm_lora": {"rank": 4}, "encoder_lora": {"rank": 3}},
    "training": {"batch_size": 3},
    "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 2},
    "engine": {"cohort": "off"},
}
POINTS = {
    "before send": (federation.Federation, "cohort", 2),
    "while training": (work, "_backward", 6),
    "after an upload": (federation.Federation, "report_answer", 4),
    "while writing a client's own state": (personal, "with_checksum", 4),
    "while aggregating": (FedSALoRA, "client_weights", 3),
    "while evaluating": (tasks, "assess", 2),
    "while writing the histories": (runfolder.RunFolder, "append", 5),
    "while noting who changed": (personal.ClientStates, "record", 3),
    "while writing the checkpoint": (runfolder, "save_checked", 6),
    "before the checkpoint counts": (Path, "rename", 3),
    "once the checkpoint counts": (personal.ClientStates, "forget_replaced", 3),
}
"""Where each point is, and at which call it lies in round 2 (the count is checked by what is left on disk)."""


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment.parse(SETTINGS)


@pytest.fixture(scope="module")
def make(experiment) -> Callable[[Path, bool], Any]:
    """A federation on data and foundation that are loaded once."""
    known: dict[str, Any] = {}

    def made(path: Path, resume: bool) -> Any:
        folder = RunFolder(path)
        if not known:
            known["of"] = build(experiment, None, lambda told: None)
        of = known["of"]
        clients = {n: type(c)(c.data, c.groups, c.shapes, c.start) for n, c in of.clients.items()}
        engine = type(of.engine)(of.engine.model, clients, experiment.training)
        found = federation.Federation(experiment, engine, of.evaluator, folder)
        if resume:
            found.resume(folder.last())
        else:
            folder.create()
        return found

    return made


def outcome(of: Any) -> str:
    tensors = dict(of.state.shared)
    for client in of.clients.values():
        tensors |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    return digest_of(tensors)


@pytest.fixture(scope="module")
def undisturbed(make, tmp_path_factory) -> str:
    whole = make(tmp_path_factory.mktemp("whole") / "run", False)
    whole.run()
    return outcome(whole)


def killed(point: str, run: Callable[[], None]) -> bool:
    """Run in a child process that kills itself with SIGKILL at the named point; whether it came to that."""
    owner, name, call = POINTS[point]
    child = os.fork()
    if child == 0:
        calls = [0]

        def struck(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                if point == "while writing the checkpoint":
                    given[1].write_bytes(b"half a file")
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)

        try:  # whatever happens, this process must not go on as a second test runner
            original = getattr(owner, name)
            setattr(owner, name, struck)
            run()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_any_point_goes_on_to_the_same_model(point, make, undisturbed, tmp_path) -> None:
    path = tmp_path / "run"
    first = make(path, False)
    assert killed(point, first.run)
    rounds = sorted(f.name for f in (path / "state").glob("round-*"))
    counts = point == "once the checkpoint counts"
    assert rounds == ["round-000002" if counts else "round-000001"], "the point lies in round 2"
    again = make(path, True)
    assert again.round == (2 if counts else 1)
    again.run()
    assert outcome(again) == undisturbed
    ledger = RunFolder(path).history("ledger.jsonl")
    assert [e["round"] for e in ledger] == [1, 2]
    assert not any(e["refused"] for e in ledger)


@pytest.mark.parametrize("what", ["save_checked", "write_sealed"])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on_to_the_same_model(
    what, make, undisturbed, tmp_path, monkeypatch
) -> None:
    original = getattr(runfolder, what)

    def full(*given: Any) -> None:
        if "round-000002" in str(given):
            raise OSError(28, "No space left on device")
        original(*given)

    of = make(tmp_path / "run", False)
    with monkeypatch.context() as patch:
        patch.setattr(runfolder, what, full)
        with pytest.raises(OSError, match="No space left"):
            of.run()
    again = make(tmp_path / "run", True)
    again.run()
    assert outcome(again) == undisturbed


def test_a_full_disk_under_a_clients_own_state_ends_the_run_and_not_the_client(
    make, undisturbed, tmp_path, monkeypatch
) -> None:
    original = personal.write_atomic

    def full(path: Path, *given: Any, **named: Any) -> None:
        if path.name == "round-000002.safetensors":
            raise OSError(28, "No space left on device")
        original(path, *given, **named)

    of = make(tmp_path / "run", False)
    with monkeypatch.context() as patch:
        patch.setattr(personal, "write_atomic", full)
        with pytest.raises(DiskError, match=r"image-01 cannot be written .No space left"):
            of.run()
    again = make(tmp_path / "run", True)
    again.run()
    assert outcome(again) == undisturbed


def test_a_disk_that_is_really_full_is_the_systems_own_error(tmp_path) -> None:
    import resource

    import torch

    from fedloom.core.files import disk_fault
    from fedloom.core.tensor_files import save_checked

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="File too large") as at:
            save_checked({"x": torch.zeros(10_000)}, tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert disk_fault(at.value) == f"File too large: {tmp_path / 'x'}"


def test_any_damage_to_a_checkpoint_is_one_sentence(make, tmp_path) -> None:
    of = make(tmp_path / "run", False)
    of.run()
    place = tmp_path / "run" / "state" / "round-000002"
    for file in sorted(place.iterdir()):
        whole = file.read_bytes()
        spots = {0, 9, len(whole) // 3, len(whole) // 2, len(whole) - 1}
        damages = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in sorted(spots)]
        for damage in (*damages, whole[:-1], whole + b"x", b""):
            file.write_bytes(damage)
            with pytest.raises(ExperimentError, match=r"is damaged: .* put it back from a copy"):
                RunFolder(tmp_path / "run").last()
        file.write_bytes(whole)
    assert RunFolder(tmp_path / "run").last() is not None
    (place / "shared.safetensors").unlink()
    with pytest.raises(ExperimentError, match="is damaged"):
        RunFolder(tmp_path / "run").last()


def test_any_damage_to_a_clients_own_state_is_one_sentence(make, tmp_path) -> None:
    of = make(tmp_path / "run", False)
    of.run()
    [file] = (tmp_path / "run" / "state" / "clients" / "image-01").iterdir()
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ExperimentError, match="is damaged"):
        make(tmp_path / "run", True)


def test_a_sealed_file_holds_what_was_put_in_and_tells_a_changed_name(tmp_path) -> None:
    import torch

    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.tensor(1),
    }
    (tmp_path / "x").write_bytes(with_checksum(tensors))
    found = read_checked(tmp_path / "x")
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    renamed = {"z" if n == "a" else n: t for n, t in tensors.items()}
    reshaped = {**tensors, "a": tensors["a"].reshape(2, 3)}
    assert len({digest_of(t) for t in (tensors, renamed, reshaped)}) == 3
