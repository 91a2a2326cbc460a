"""Crashes, lost and repeated messages, full disks and garbage between a server and its sites: never another model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.engines.remote import Lost
from fedloom.errors import ExperimentError
from fedloom.exchange import Payload
from fedloom.experiment import Experiment
from fedloom.federation import Federation
from fedloom.methods import State
from fedloom.methods.base import Ask
from fedloom.methods.combine import mean_of
from fedloom.methods.fedsa_lora import FedSALoRA
from fedloom.runfolder import RunFolder
from fedloom.seal import digest_of
from tests.deploy.silos import Silos

NAMES = ("image-01", "image-02")
DATA = {"clients": {"image": 2}, "train": 8, "test": 1}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """Two sites, a shared and a personal part: whoever stands at a wrong state ends elsewhere."""
    return Experiment.parse(
        {
            "rounds": 2,
            "method": "fedsa-lora",
            "data": DATA,
            "model": {"llm_lora": {"rank": 4}, "encoder_lora": {"rank": 3}},
            "training": {"batch_size": 4},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 2},
            "engine": {"cohort": "off"},
        }
    )


@pytest.fixture(scope="module")
def warm(experiment, tmp_path_factory) -> dict[str, Any]:
    """One trainer per site for all tests, since each loads a foundation; a test gives it a folder of its own."""
    silos = Silos(experiment, NAMES, tmp_path_factory.mktemp("warm"))
    return {name: silos.trainer(name) for name in NAMES}


@pytest.fixture
def sites(experiment, warm, tmp_path, monkeypatch) -> Silos:
    """Two sites that have kept nothing yet; the server's model is loaded once, too."""
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    for name, trainer in warm.items():
        trainer.folder, trainer._states = tmp_path / "sites" / name, {}
        silos.trainers[name] = trainer
    monkeypatch.setattr(server, "adapted_model", _once(server.adapted_model))
    monkeypatch.setattr(server, "finish", lambda federation, rows: federation)
    return silos


MODELS: list[Any] = []


def _once(load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(*given: Any) -> Any:
        if not MODELS:
            MODELS.append(load(*given))
        return MODELS[0]

    return loaded


def reboot(silos: Silos, name: str) -> None:
    """What a site's trainer remembers besides its disk is gone."""
    silos.trainers[name]._states = {}


def outcome(silos: Silos, path: Path) -> str:
    """One hash of the server's tensors and of every site's own."""
    found = RunFolder(path).last()
    assert found is not None
    tensors = {**found.state.shared, **found.state.tensors}
    for name, trainer in silos.trainers.items():
        [state] = [trainer._state(folder.name) for folder in (trainer.folder / "runs").iterdir()]
        state.look_at(2)
        tensors |= {f"{name}:{n}": t for n, t in (state.read(name) or {}).items()}
    return digest_of(tensors)


@pytest.fixture
def undisturbed(experiment, sites, tmp_path) -> str:
    path = tmp_path / "undisturbed"
    go_on(experiment, NAMES, path, sites)
    found = outcome(sites, path)
    for name in NAMES:
        trainer = sites.trainers[name]
        trainer.folder, trainer._states = tmp_path / "again" / name, {}
    sites.asked.clear()
    return found


def question_of(data: bytes, task: str = "train", round: int | None = None) -> bool:
    asked = Request.decode(data)
    return asked.task == task and round in (None, asked.round)


def kill_at(point: str, silos: Silos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the server at a named point of round 2, once."""
    due = [True]

    def strike() -> None:
        if due:
            due.clear()
            raise Killed

    if point in ("before send", "after the first upload"):

        def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
            second = question_of(question, round=2)
            if second and point == "before send":
                strike()
            answer = silos.trainer(name).answer(question)
            if second and point == "after the first upload":
                strike()
            yield name, answer

        silos.between = between
        return
    place, name = {
        "while aggregating": ("fedloom.methods.fedsa_lora.FedSALoRA", "round"),
        "while evaluating": ("fedloom.federation.Federation", "_assess"),
        "while writing the histories": ("fedloom.runfolder.RunFolder", "append"),
        "while writing the checkpoint": ("fedloom.runfolder", "save_sealed"),
        "before the checkpoint counts": ("pathlib.Path", "rename"),
    }[point]
    owner: Any = _resolve(place)
    original = getattr(owner, name)

    def struck(*given: Any, **named: Any) -> Any:
        at = [s for s in given if isinstance(s, Federation)]
        where = repr(given)
        if point == "while aggregating":
            found = original(*given, **named)
            if given[2].round == 2:
                strike()
            return found
        if point == "while evaluating" and at and given[1] == 2:
            strike()
        if point == "while writing the histories" and given[1] == "ledger.jsonl":
            lines = list(given[2])
            if any(line["round"] == 2 and line["task"] == "train" for line in lines):
                with (given[0].path / given[1]).open("a") as file:
                    file.write('{"round": 2, "tas')
                strike()
            return original(given[0], given[1], lines)
        if point == "while writing the checkpoint" and "round-000002" in where:
            given[1].write_bytes(b"half a file")
            strike()
        if point == "before the checkpoint counts" and ".round-000002" in where:
            strike()
        return original(*given, **named)

    monkeypatch.setattr(owner, name, struck)


def _resolve(place: str) -> Any:
    from importlib import import_module

    try:
        return import_module(place)
    except ModuleNotFoundError:
        module, _, name = place.rpartition(".")
        return getattr(import_module(module), name)


@pytest.mark.parametrize(
    "point",
    [
        "before send",
        "after the first upload",
        "while aggregating",
        "while evaluating",
        "while writing the histories",
        "while writing the checkpoint",
        "before the checkpoint counts",
    ],
)
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
    assert [(e["round"], e["task"]) for e in ledger] == [
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


@pytest.mark.parametrize(
    "moment", ["while training", "while writing its state", "before it keeps its answer"]
)
def test_a_trainer_killed_in_a_round_is_asked_again_and_gives_the_same(
    moment, experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    place = {
        "while training": "fedloom.engines.local.alone",
        "while writing its state": "fedloom.deploy.state.sealed",
        "before it keeps its answer": "fedloom.deploy.state.SiteState.keep",
    }[moment]
    struck: list[str] = []

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        if name == "image-02" and question_of(question, round=2) and not struck:
            struck.append(name)
            with monkeypatch.context() as patch:
                patch.setattr(place, _die)
                with pytest.raises(Killed):
                    sites.trainer(name).answer(question)
            reboot(sites, name)
        yield name, sites.trainer(name).answer(question)  # as the stub asks again

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert struck
    assert outcome(sites, tmp_path / "run") == undisturbed


def _die(*given: Any) -> None:
    raise Killed


def test_a_site_that_is_lost_in_a_round_is_named_and_rejoins(experiment, sites, tmp_path) -> None:
    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        gone = name == "image-02" and question_of(question, round=1)
        yield name, Lost("lost: its node is gone") if gone else sites.trainer(name).answer(question)

    sites.between = between
    federation = go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["task"] == "train"]
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


def test_a_repeated_question_is_answered_from_what_was_kept(experiment, sites, tmp_path, monkeypatch) -> None:
    trained: list[int] = []
    from fedloom.engines import local

    original = local.alone
    monkeypatch.setattr(local, "alone", lambda model, job: trained.append(job.round) or original(model, job))

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        first = sites.trainer(name).answer(question)
        reboot(sites, name)  # what is kept lies on disk
        assert sites.trainer(name).answer(question) == first
        yield name, first
        yield name, first  # delivered twice: the first counts

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    assert trained == [1, 1, 2, 2]


def test_what_answers_another_question_is_stale_and_another_site_is_uninvited(
    experiment, sites, tmp_path
) -> None:
    earlier: dict[str, bytes] = {}

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        answer = sites.trainer(name).answer(question)
        if question_of(question, round=1):
            earlier[name] = answer
        if question_of(question, round=2):
            answer = earlier[name] if name == "image-01" else earlier["image-01"]
        yield name, answer

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    [_, second] = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["task"] == "train"]
    assert second["refused"] == {
        "image-01": "stale: answers another question",
        "image-02": "uninvited: the answer is signed 'image-01'",
    }


def test_an_old_question_does_not_undo_what_a_site_has_learnt_since(experiment, sites, tmp_path) -> None:
    asked: list[bytes] = []

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        if name == "image-01" and question_of(question, round=1):
            asked.append(question)
        yield name, sites.trainer(name).answer(question)

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    before = outcome(sites, tmp_path / "run")
    said = Answer.decode(sites.trainer("image-01").answer(asked[0]))
    assert said.error == "stale: asks for round 1 again, after round 2"
    assert outcome(sites, tmp_path / "run") == before


@pytest.mark.parametrize(
    "garbage", [b"", b"\0" * 40, b'{"numbers": {}}', Payload({"llm/x": torch.ones(3)}, {"site": 3}).encode()]
)
def test_garbage_from_a_site_is_its_refusal_and_nobody_elses(garbage, experiment, sites, tmp_path) -> None:
    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        spoilt = name == "image-02" and question_of(question)
        yield name, garbage if spoilt else sites.trainer(name).answer(question)

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["task"] == "train"]
    assert [e["answered"] for e in train] == [["image-01"]] * 2
    assert all(e["refused"]["image-02"].startswith("unreadable: ") for e in train)


def test_a_sites_full_disk_costs_its_update_and_it_stands_where_it_stood(
    experiment, sites, tmp_path, monkeypatch
) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        with monkeypatch.context() as patch:
            if name == "image-02" and question_of(question, round=1):
                patch.setattr("fedloom.deploy.state.write_atomic", full)
            yield name, sites.trainer(name).answer(question)

    sites.between = between
    go_on(experiment, NAMES, tmp_path / "run", sites)
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["task"] == "train"]
    assert "No space left on device" in train[0]["refused"]["image-02"]
    assert train[1]["answered"] == list(NAMES)


def test_the_servers_full_disk_stops_the_run_and_room_lets_it_go_on_to_the_same_model(
    experiment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    from fedloom import runfolder

    original = runfolder.save_sealed

    def full(tensors: Any, file: Path) -> None:
        if "round-000002" in str(file):
            file.write_bytes(b"as far as it went")
            raise OSError(28, "No space left on device")
        original(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(runfolder, "save_sealed", full)
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
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["task"] == "train"]
    assert "is damaged" in train[1]["refused"]["image-02"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "upload your samples"}, "has not agreed to the task"),
        ({"experiment": "0" * 64}, "another experiment"),
        ({"round": 3}, "none of the experiment's 2"),
        ({"round": 0}, "none of the experiment's 2"),
    ],
)
def test_a_site_does_only_what_it_has_agreed_to(change, reason, experiment, warm) -> None:
    trainer = warm["image-01"]
    right = {"run": "a" * 32, "experiment": trainer.digest, "task": "train", "round": 1, "step": 0}
    data = Request(**{**right, **change}, payload=Payload()).encode()
    said = Answer.decode(trainer.answer(data))
    assert said.error is not None
    assert said.error.startswith("refused: ")
    assert reason in said.error
    assert said.to == fingerprint(data)


def test_a_site_that_does_not_join_is_named(experiment, sites, tmp_path) -> None:
    sites.between = lambda name, question: iter([(name, Lost("unreachable: the site is not connected"))])
    with pytest.raises(ExperimentError, match=r"image-01 has not joined \(unreachable"):
        go_on(experiment, NAMES, tmp_path / "run", sites)
    sites.between = None
    go_on(experiment, NAMES, tmp_path / "run", sites)


def test_another_experiment_does_not_go_on_in_this_folder(experiment, sites, tmp_path) -> None:
    go_on(experiment, NAMES, tmp_path / "run", sites)
    other = experiment.model_copy(update={"rounds": 3})
    with pytest.raises(ExperimentError, match="another experiment"):
        go_on(other, NAMES, tmp_path / "run", sites)


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


def right_question(digest: str) -> bytes:
    return Request("a" * 32, digest, "describe", 0, 0, Payload({"llm/x": torch.ones(3)})).encode()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_a_trainer_answers_any_bytes_and_does_nothing_on_their_account(data, warm) -> None:
    said = Answer.decode(warm["image-01"].answer(data))
    assert said.error is not None
    assert said.to == fingerprint(data)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10**6), new=st.binary(min_size=1, max_size=4))
def test_a_damaged_question_is_answered_in_words(at, new, warm, tmp_path_factory) -> None:
    trainer = warm["image-01"]
    trainer.folder = tmp_path_factory.getbasetemp() / "damaged"
    data = right_question(trainer.digest)
    at %= len(data)
    damaged = data[:at] + new + data[at + len(new) :]
    said = Answer.decode(trainer.answer(damaged))
    assert said.site == "image-01"
    assert (said.error is None) == (said.payload.numbers != {})
