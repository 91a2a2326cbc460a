"""Lost, repeated, old and spoilt messages, and questions that a site has not agreed to: a refusal with a name, never more."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload
from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.server import go_on
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import outcome, question_of, reboot

NAMES = ("image-01", "image-02")


def test_a_repeated_question_is_answered_from_what_was_kept(experiment, sites, tmp_path, monkeypatch) -> None:
    trained: list[int] = []
    from fedloom.federation import local_engine as local

    original = local.train_one
    monkeypatch.setattr(
        local, "train_one", lambda model, job: trained.append(job.round) or original(model, job)
    )

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
    [_, second] = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["request"] == "train"]
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
    train = [e for e in RunFolder(tmp_path / "run").history("ledger.jsonl") if e["request"] == "train"]
    assert [e["answered"] for e in train] == [["image-01"]] * 2
    assert all(e["refused"]["image-02"].startswith("unreadable: ") for e in train)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "upload your samples"}, "has not agreed to the request"),
        ({"experiment": "0" * 64}, "another experiment"),
        ({"round": 3}, "none of the experiment's 2"),
        ({"round": 0}, "none of the experiment's 2"),
    ],
)
def test_a_site_does_only_what_it_has_agreed_to(change, reason, experiment, warm) -> None:
    trainer = warm["image-01"]
    right = {"run": "a" * 32, "experiment": trainer.digest, "name": "train", "round": 1, "step": 0}
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
