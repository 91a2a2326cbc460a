"""Crashes and full disks between a server and its sites: never another model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.core.payload import Payload
from fedloom.deploy import server
from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.server import go_on
from fedloom.deploy.wire import Request
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import State
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask
from fedloom.methods.fedsa_lora import FedSALoRA
from tests.deploy.kills import MOMENTS, POINTS, kill_at, kill_trainer
from tests.deploy.silos import Killed, outcome, question_of, reboot

NAMES = ("image-01", "image-02")


@pytest.mark.parametrize("point", POINTS)
def test_a_server_killed_at_any_point_goes_on_to_the_same_model(
    point, experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(point, sites, patch)
        with pytest.raises(Killed):
            go_on(experiment, NAMES, tmp_path / "run", sites)
    sites.between = None
    assert (tmp_path / "run" / "state" / "round-000001").is_dir()
    assert not (tmp_path / "run" / "state" / "round-000002").exists()
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert outcome(sites, tmp_path / "run") == undisturbed
    ledger = RunFolder(tmp_path / "run").history("ledger.jsonl")
    assert [(e["round"], e["request"]) for e in ledger] == [
        (0, "evaluate"),
        (1, "train"),
        (2, "evaluate"),
        (2, "train"),
    ]
    assert not any(e["refused"] for e in ledger)


def test_a_site_and_the_server_killed_together_go_on_to_the_same_model(
    experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at("after the first upload", sites, patch)
        with pytest.raises(Killed):
            go_on(experiment, NAMES, tmp_path / "run", sites)
    sites.between = None
    for name in NAMES:
        reboot(sites, name)
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert outcome(sites, tmp_path / "run") == undisturbed


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_trainer_killed_in_a_round_is_asked_again_and_gives_the_same(
    moment, experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    struck: list[str] = []

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        if name == "image-02" and question_of(question, round=2) and not struck:
            struck.append(name)
            kill_trainer(moment, sites, name, question, monkeypatch)
        yield name, sites.trainer(name).answer(question)  # as the stub asks again

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert struck
    assert outcome(sites, tmp_path / "run") == undisturbed


def test_a_site_that_is_lost_in_a_round_is_named_and_rejoins(experiment, sites, tmp_path) -> None:
    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        gone = name == "image-02" and question_of(question, round=1)
        yield name, Lost("lost: its node is gone") if gone else sites.trainer(name).answer(question)

    sites.between = between
    federation = go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["request"] == "train"]
    assert [e["answered"] for e in train] == [["image-01"], ["image-01", "image-02"]]
    assert train[0]["refused"] == {"image-02": "lost: its node is gone"}
    assert federation.totals.status() == "complete, but 1 of 4 updates refused"


def test_a_round_without_a_quorum_changes_nothing(experiment, sites, tmp_path) -> None:
    strict = experiment.model_copy(update={"cohort": experiment.cohort.model_copy(update={"quorum": 1.0})})
    for trainer in sites.trainers.values():
        trainer.digest = server.experiment_digest(strict)

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        gone = name == "image-02" and question_of(question)
        yield name, Lost("missing: no answer within 1 s") if gone else sites.trainer(name).answer(question)

    sites.between = between
    try:
        federation = go_on(strict, NAMES, tmp_path / "run", sites)
    finally:
        for trainer in sites.trainers.values():
            trainer.digest = server.experiment_digest(experiment)
    assert federation.totals.skipped_rounds == 2
    start = federation.engine.model.start
    assert all(torch.equal(t, start[n]) for n, t in federation.state.shared.items())


def test_a_sites_full_disk_costs_its_update_and_it_stands_where_it_stood(
    experiment, sites, tmp_path, monkeypatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        with monkeypatch.context() as patch:
            if name == "image-02" and question_of(question, round=1):
                patch.setattr("fedloom.deploy.state.write_atomic", full)
            yield name, sites.trainer(name).answer(question)

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["request"] == "train"]
    assert "No space left on device" in train[0]["refused"]["image-02"]
    assert train[1]["answered"] == list(NAMES)


def test_the_servers_full_disk_stops_the_run_and_room_lets_it_go_on_to_the_same_model(
    experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    from fedloom.federation import run_folder as runfolder

    original = runfolder.save_checked

    def full(tensors: Any, file: Path) -> None:
        if "round-000002" in str(file):
            file.write_bytes(b"as far as it went")
            raise OSError(28, "No space left on device")
        original(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(runfolder, "save_checked", full)
        with pytest.raises(OSError, match="No space left"):
            go_on(experiment, NAMES, tmp_path / "run", sites)
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert outcome(sites, tmp_path / "run") == undisturbed


def test_a_damaged_state_of_a_site_is_told_and_never_trained_on(experiment, sites, tmp_path) -> None:
    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        if name == "image-02" and question_of(question, round=2):
            [file] = (sites.folder / name).glob("runs/*/personal/*.safetensors")
            data = bytearray(file.read_bytes())
            data[-5] ^= 1
            file.write_bytes(data)
        yield name, sites.trainer(name).answer(question)

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["request"] == "train"]
    assert "is damaged" in train[1]["refused"]["image-02"]


class Twice(FedSALoRA):
    """Asks twice a round; the second question builds on the first, on the server and at the sites."""

    name = "twice"

    def round(self, state: State, ask: Ask) -> State:
        for _ in range(2):
            replies = ask("train", Payload(state.shared))
            state = state.with_shared(mean_of(replies, self.client_weights(replies)))
        return state


@pytest.mark.parametrize("rebooted", [False, True])
def test_a_server_killed_between_two_questions_of_a_round_goes_on_to_the_same_model(
    rebooted, experiment, sites, tmp_path, monkeypatch
) -> None:
    twice = experiment.model_copy(update={"method": Twice()})
    for trainer in sites.trainers.values():
        monkeypatch.setattr(trainer, "experiment", twice)
        monkeypatch.setattr(trainer, "digest", server.experiment_digest(twice))
    go_on(twice, NAMES, tmp_path / "whole", sites)
    whole = outcome(sites, tmp_path / "whole")
    for name, trainer in sites.trainers.items():
        trainer.folder, trainer._states = tmp_path / "again" / name, {}

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        asked = Request.decode(question)
        answer = sites.trainer(name).answer(question)
        if (asked.round, asked.step, name) == (2, 1, "image-01"):
            raise Killed
        yield name, answer

    sites.between = between
    monkeypatch.setattr(server, "read_experiment", lambda path: twice)
    with pytest.raises(Killed):
        go_on(twice, NAMES, tmp_path / "run", sites)
    sites.between = None
    if rebooted:
        for name in NAMES:
            reboot(sites, name)
    go_on(twice, NAMES, tmp_path / "run", sites)
    assert outcome(sites, tmp_path / "run") == whole
