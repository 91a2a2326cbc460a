"""Whatever a reply holds: the run goes on, its client alone is refused, and the ledger stays short, plain and readable."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply, not_finite
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation import loop
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import RunFolder
from fedloom.methods.fedavg_lora import FedAvgLoRA
from tests.federation.scripted import Scripts
from tests.privacy.test_reply_schema import anything

BAD, GOOD = "image-02", ["image-01", "image-03"]
LAYER = "llm/model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


def changed(client: str, **numbers: Any) -> Any:
    """A script in which one client's reply has these numbers."""

    def script(name: str, reply: Reply) -> Reply:
        if name != client:
            return reply
        return dataclasses.replace(
            reply, payload=Payload(reply.payload.tensors, {**reply.payload.numbers, **numbers})
        )

    return script


def with_tensors(client: str, change: Any) -> Any:
    def script(name: str, reply: Reply) -> Reply:
        if name != client:
            return reply
        tensors = change(dict(reply.payload.tensors))
        return dataclasses.replace(reply, payload=Payload(tensors, reply.payload.numbers))

    return script


def ledger_of(federation: Federation) -> list[dict[str, Any]]:
    """The ledger, which must be valid and plain JSON."""
    text = (federation.folder.path / "ledger.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text.split("\n") if line]
    assert all(len(line) < 5000 for line in text.split("\n"))
    plain = json.dumps(entries, ensure_ascii=False)
    assert plain.isprintable(), "no control character reaches a terminal"
    return entries


def ran(scripts: Scripts, path: Path, script: Any, **options: Any) -> tuple[Federation, list[dict[str, Any]]]:
    federation = scripts.federation(script, RunFolder(path), **options)
    federation.run()
    return federation, ledger_of(federation)


def assert_only_the_bad_one_is_refused(entry: dict[str, Any], reason: str = "") -> None:
    assert list(entry["refused"]) == [BAD]
    assert entry["refused"][BAD].startswith(reason)
    assert entry["answered"] == GOOD


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["loss", "steps", "truncated", "round", "examples", "other", "\x1b[2J"]),
    value=anything,
)
def test_any_value_in_any_number_costs_its_client_alone(name, value, scripts, tmp_path_factory) -> None:
    federation, [entry] = ran(scripts, tmp_path_factory.mktemp("run") / "run", changed(BAD, **{name: value}))
    assert set(GOOD) <= set(entry["answered"])
    assert set(entry["refused"]) == {BAD} - set(entry["answered"])
    assert federation.status().startswith("complete")
    assert not_finite(federation.state.shared) is None
    assert all(math.isfinite(v) for v in federation.last_metrics.values())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(error=st.text(st.characters(), min_size=1) | st.just("\x1b[2J\n" * 10_000))
def test_any_error_text_is_one_plain_line_of_bounded_length(error, scripts, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("run") / "run"
    _, [entry] = ran(scripts, path, lambda name, reply: Reply(name, error=error) if name == BAD else reply)
    assert_only_the_bad_one_is_refused(entry)
    assert len(entry["refused"][BAD]) <= 500


@pytest.mark.parametrize("name", ["loss", "truncated"])
def test_a_text_where_a_number_belongs_does_not_end_the_run(name, scripts, tmp_path) -> None:
    _, [entry] = ran(scripts, tmp_path / "run", changed(BAD, **{name: "x"}))
    assert_only_the_bad_one_is_refused(entry, f"number: {name} is 'x'")


def test_a_client_that_sends_no_tensors_has_not_answered(scripts, tmp_path) -> None:
    federation, [entry] = ran(scripts, tmp_path / "run", with_tensors(BAD, lambda tensors: {}))
    assert_only_the_bad_one_is_refused(entry, "names: sent no tensors")
    assert federation.status() == "complete, but 1 of 3 updates refused"


def test_a_client_without_anything_to_train_in_a_round_may_send_nothing(scripts, tmp_path) -> None:
    """In the encoder's rounds only the encoder's tensors are due, and they are personal here."""
    training = {"schedule": "rounds", "rho": 1.0, "projector": "frozen"}
    method = {"name": "fedavg-lora", "personal": ["encoder.*"]}
    silent = lambda name, reply: Reply(name, Payload({}, {"round": 1, "examples": 4, "steps": 0}))  # noqa: E731
    _, [entry] = ran(scripts, tmp_path / "run", silent, method=method, training=training)
    assert entry["refused"] == {}
    assert f"{BAD}: took no step" in entry["notes"]
    claims_more = lambda name, reply: Reply(name, Payload({}, {"round": 1, "examples": 4, "steps": 2}))  # noqa: E731
    _, [entry] = ran(scripts, tmp_path / "more", claims_more, method=method)
    assert set(entry["refused"].values()) == {"names: sent no tensors"}


@pytest.mark.parametrize("far", [1e20, 1e38])
def test_finite_factors_whose_product_overflows_are_refused(far, scripts, tmp_path) -> None:
    """Two holders: no median says what is far."""

    def script(name: str, reply: Reply) -> Reply | None:
        far_off = {n: torch.full_like(t, far) for n, t in reply.payload.tensors.items()}
        sent = Payload(far_off, reply.payload.numbers)
        return {BAD: dataclasses.replace(reply, payload=sent), "image-03": None}.get(name, reply)

    federation, [entry] = ran(scripts, tmp_path / "run", script, method="feda2-lora", cohort={"quorum": 0.1})
    assert entry["answered"] == ["image-01"]
    assert entry["refused"][BAD].startswith("norm: ")
    assert not_finite(federation.state.shared) is None
    assert federation.status() == "complete, but 2 of 3 updates refused"


def test_groups_of_a_stranger_do_not_fill_the_ledger(scripts, tmp_path) -> None:
    many = {f"\x1b{i}{'x' * 500}/a": torch.zeros(1) for i in range(3000)}
    federation = scripts.federation(with_tensors(BAD, lambda tensors: many), RunFolder(tmp_path / "run"))
    federation.run()
    [entry] = federation.folder.history("ledger.jsonl")
    assert len(entry["groups_up"]) <= 1001
    assert all(len(g) <= 100 and g.isprintable() for g in entry["groups_up"])
    assert sum(entry["groups_up"].values()) == entry["bytes_up"]


def test_a_state_that_is_not_finite_is_never_taken(scripts, tmp_path, monkeypatch) -> None:
    """Two rounds: in the first the server's own arithmetic overflows."""
    original = FedAvgLoRA.round

    def overflowing(self: Any, state: Any, ask: Any) -> Any:
        after = original(self, state, ask)
        name = sorted(after.shared)[0]
        return after.with_shared({name: after.shared[name] * math.inf}) if ask.round == 1 else after

    monkeypatch.setattr(FedAvgLoRA, "round", overflowing)
    federation, [first, second] = ran(scripts, tmp_path / "run", lambda name, reply: reply, rounds=2)
    assert first["notes"][-1].endswith("is not finite: the round changed nothing on the server")
    assert second["notes"] == []
    start = federation.method.start(federation.engine.model.start).shared
    for name, tensor in federation.state.shared.items():
        torch.testing.assert_close(tensor, start[name] + 0.01)
    assert federation.status() == "complete, but 1 rounds failed on the server and changed nothing"
    assert RunFolder(tmp_path / "run").last().totals["failed_rounds"] == 1


def test_a_server_function_that_raises_at_replies_costs_the_round_and_not_the_run(
    scripts, tmp_path, monkeypatch
) -> None:
    def raising(self: Any, replies: Any) -> Any:
        raise RuntimeError("did not\nconverge")

    with monkeypatch.context() as patch:
        patch.setattr(FedAvgLoRA, "client_weights", raising)
        federation, [entry] = ran(scripts, tmp_path / "run", lambda name, reply: reply)
    [note] = [n for n in entry["notes"] if "server function" in n]
    assert note.startswith(
        "the server function raised RuntimeError: did not converge (test_hostile_replies.py"
    )
    assert "failed on the server" in federation.status()

    with monkeypatch.context() as patch:
        patch.setattr(FedAvgLoRA, "round", raising)  # no client has answered: the method's own mistake
        with pytest.raises(TypeError):
            ran(scripts, tmp_path / "again", lambda name, reply: reply)


def test_a_robust_stage_that_raises_costs_the_round_and_not_the_run(scripts, tmp_path, monkeypatch) -> None:
    from fedloom.privacy.robust.stage import NormBound

    def raising(*given: Any) -> Any:
        raise RuntimeError("svd did not converge")

    monkeypatch.setattr(NormBound, "apply", raising)
    federation, [entry] = ran(
        scripts, tmp_path / "run", lambda name, reply: reply, privacy={"robust": {"kind": "norm_bound"}}
    )
    assert "svd did not converge" in entry["notes"][-1]
    assert "failed on the server" in federation.status()


def test_diagnostics_that_raise_are_left_out(scripts, tmp_path, monkeypatch) -> None:
    def raising(*given: Any) -> Any:
        raise RuntimeError("svd did not converge")

    monkeypatch.setattr(loop, "aggregation", raising)
    federation, [entry] = ran(scripts, tmp_path / "run", lambda name, reply: reply)
    assert "diagnostics are left out" in entry["notes"][-1]
    assert federation.status() == "complete"
    assert federation.last_metrics["train/loss"] == 0.5


def test_a_capped_claim_is_in_the_ledger(scripts, tmp_path) -> None:
    robust = {"robust": {"kind": "norm_bound", "bound": 1e9}}
    method = {"name": "fedavg-lora", "weights": "examples"}
    _, [entry] = ran(scripts, tmp_path / "run", changed(BAD, examples=100), privacy=robust, method=method)
    assert entry["capped"] == {BAD: "claims 100 examples, 12 count"}
    _, [entry] = ran(scripts, tmp_path / "uniform", changed(BAD, examples=100), privacy=robust)
    assert entry["capped"] == {}, "claims have no weight"


@pytest.mark.parametrize("training", [{"projector": "frozen"}, {"projector": "frozen", "tau": 0.9}])
def test_a_method_that_trains_nothing_is_refused_before_training(training, tmp_path) -> None:
    model = {"llm_lora": None, "encoder_lora": None}
    fields = Scripts.fields(method="feda2-lora", model=model, training=training)
    with pytest.raises(ExperimentError, match="method feda2-lora finds no tensor to train in any round"):
        run(Experiment.parse(fields), tmp_path / "run")
    run(Experiment.parse({**fields, "rounds": 0}), None)


def test_more_tensors_than_a_message_may_hold_are_refused_before_training(scripts) -> None:
    federation = scripts.federation(lambda name, reply: reply, firewall={"max_tensors": 3})
    with pytest.raises(
        ExperimentError, match=r"firewall\.max_tensors: method fedavg-lora shares \d+ tensors"
    ):
        federation.check()
