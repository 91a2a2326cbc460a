"""Secure aggregation and differential privacy through whole federations on the shipped foundation."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.experiment.build import build
from fedloom.experiment.run import privacy_summary
from fedloom.federation import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.privacy.differential.accountant import Accountant

FOUR = {"data": {"clients": {"both": 3, "image": 1}, "train": 6, "test": 1}, "training": {"batch_size": 2}}
"""Three steps a round, so that encoders and language model are trained; `encoder.audio` has three holders."""
TEN = {"data": {"clients": {"image": 10}, "train": 2, "test": 1}, "training": {"batch_size": 2}}
SECURE: dict[str, Any] = {"secure": {}}
NOISELESS = {"dp": {"clip": 10.0, "noise_multiplier": 1e-9, "seeded": True}}

Quick = Callable[..., Any]
Federate = Callable[..., Federation]


def ran(federation: Federation) -> Federation:
    federation.run()
    return federation


def assert_near(one: Federation, two: Federation, tolerance: float) -> None:
    before = one.method.start(one.engine.model.start).shared
    moved = max(float((t - before[n]).abs().max()) for n, t in one.state.shared.items())
    for name, tensor in one.state.shared.items():
        torch.testing.assert_close(two.state.shared[name], tensor, rtol=2e-6, atol=tolerance)
    assert moved > 100 * tolerance


@pytest.mark.parametrize(
    "method",
    [
        {"name": "feda2-lora"},
        {"name": "feda2-lora", "mode": "strict"},
        "rolora",
        "scaffold",
        {"name": "fedavg-lora", "weights": "examples", "server": {"name": "avgm"}},
    ],
    ids=str,
)
def test_a_secure_run_gives_the_plain_model_within_the_fixed_point_error(method, quick, federate) -> None:
    """One round: n clip / 2^32 = 7.5e-9 for the mean of four clients, and what a method's own arithmetic makes of it."""
    plain = ran(federate(quick(method, **FOUR, rounds=1), "plain"))
    weighted = isinstance(method, dict) and method.get("weights") == "examples"
    privacy = {
        "secure": {"examples": 10} if weighted else {}
    }  # a client has 6: its words are 0.6 times its changes
    secure = ran(federate(quick(method, **FOUR, rounds=1, privacy=privacy), "secure"))
    assert_near(plain, secure, 1e-7)
    assert secure.last_metrics["train/loss"] == pytest.approx(plain.last_metrics["train/loss"], abs=1e-6)
    assert not any("/loss" in n and n != "train/loss" for n in secure.last_metrics if n.startswith("train/"))
    assert secure.last_metrics["change_norm"] == pytest.approx(plain.last_metrics["change_norm"], rel=1e-4)
    assert "restoration_error" not in secure.last_metrics
    up = [sum(e["bytes_up"] for e in f.folder.history("ledger.jsonl")) for f in (plain, secure)]
    asks = len(secure.folder.history("ledger.jsonl"))
    constant = (
        asks * 4 * (64 + 3 * (4 * 32 + 32 + 16) + 4 * 4 * 32 + 100)
    )  # keys, sealed shares, shares, counts
    centred = method == {"name": "feda2-lora"}
    assert up[1] <= (1.5 if centred else 1.0) * up[0] + constant
    assert secure.totals.status() == "complete"


class Losing(LocalEngine):
    """A local engine in which some clients fall silent from a phase on."""

    phase, gone = "", ()

    def ask(self, method: Any, request: str, payloads: Mapping[str, Payload], *rest: Any) -> list[Reply]:
        if request == self.phase:
            payloads = {c: payloads[c] for c in payloads if c not in self.gone}
        return super().ask(method, request, payloads, *rest)


def losing(federation: Federation, phase: str, count: int) -> Federation:
    federation.engine.__class__ = Losing
    federation.engine.phase, federation.engine.gone = phase, sorted(federation.clients)[:count]
    return federation


@pytest.mark.parametrize("phase", ["keys", "shares", "masked", "unmask"])
def test_with_three_of_ten_clients_lost_at_a_phase_the_round_is_that_of_the_others(
    phase, quick, federate
) -> None:
    experiment = quick("feda2-lora", **TEN, rounds=1, privacy=SECURE)
    secure = ran(losing(federate(experiment, "secure"), f"secure/{phase}", 3))
    entries = secure.folder.history("ledger.jsonl")
    gone = sorted(secure.clients)[:3]
    if phase == "unmask":
        plain = ran(federate(quick("feda2-lora", **TEN, rounds=1)))
        assert secure.totals.status() == "complete"
        assert sorted(entries[0]["phases"][3]["lost"]) == gone
    else:
        plain = federate(quick("feda2-lora", **TEN, rounds=1))
        plain = ran(losing(plain, "train", 3))
        assert entries[0]["refused"] == dict.fromkeys(gone, f"secure/{phase}: missing: no reply")
        assert secure.totals.status() == "complete, but 3 of 17 updates refused"
    assert [e["request"] for e in entries] == ["average", "project"]
    assert_near(plain, secure, 1e-7)


def test_with_fewer_than_the_threshold_the_round_changes_nothing_and_says_so(quick, federate) -> None:
    secure = losing(
        federate(quick("fedavg-lora", **TEN, rounds=1, privacy=SECURE), "few"), "secure/masked", 4
    )
    before = dict(secure.state.shared)
    secure.run()
    (entry,) = secure.folder.history("ledger.jsonl")
    assert entry["answered"] == []
    reasons = sorted(entry["refused"].values())
    assert reasons == 6 * ["not used: the secure sum was abandoned"] + 4 * [
        "secure/masked: missing: no reply"
    ]
    assert "secure sum: 6 of 10 clients at phase masked, 7 are needed; nothing was opened" in entry["notes"]
    assert all(torch.equal(t, before[n]) for n, t in secure.state.shared.items())
    assert "1 rounds without a quorum" in secure.totals.status()


def test_a_sum_that_too_few_trained_is_said_in_the_status(quick, federate) -> None:
    """`encoder.audio` has three holders; one is lost after it has trained, and two are fewer than `least`."""
    federation = federate(quick("fedavg-lora", **FOUR, rounds=1, privacy=SECURE), "run")
    original, audio = federation.engine.ask, next(n for n in sorted(federation.clients) if "both" in n)

    def ask(method: Any, request: str, *rest: Any) -> list[Reply]:
        replies = original(method, request, *rest)
        return [r for r in replies if r.client != audio] if request == "secure/masked" else replies

    federation.engine.ask = ask
    federation.run()
    [entry] = federation.folder.history("ledger.jsonl")
    closed = [n for n in entry["notes"] if "it stays as it was" in n]
    assert [n.split(":")[0] for n in closed] == ["encoder.audio"]
    assert "and 1 sums over a group that too few clients trained were not opened" in federation.status()


def test_the_result_of_a_secure_run_does_not_depend_on_its_secrets_or_on_the_wire(quick, federate) -> None:
    one, two = (
        ran(federate(quick("fedavg-lora", **FOUR, rounds=1, privacy=SECURE, engine=engine)))
        for engine in ({}, {"wire": True})
    )
    assert all(torch.equal(t, two.state.shared[n]) for n, t in one.state.shared.items())


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_secure_run_that_was_cut_off_in_a_phase_goes_on_to_the_same_model(quick, federate) -> None:
    experiment = quick("fedavg-lora", **FOUR, rounds=2, privacy=SECURE)
    whole = ran(federate(experiment))
    cut = federate(experiment, "cut")
    ask, requests = cut.engine.ask, []

    def killed(method: Any, request: str, *rest: Any) -> list[Reply]:
        requests.append(request)
        if requests.count("secure/masked") == 2:
            raise Killed
        return ask(method, request, *rest)

    cut.engine.ask = killed
    with pytest.raises(Killed):
        cut.run()
    again = build(experiment, cut.folder, lambda told: None)
    again.resume(cut.folder.last())
    again.run()
    assert again.round == 2
    assert all(torch.equal(t, again.state.shared[n]) for n, t in whole.state.shared.items())


@pytest.mark.parametrize(
    ("method", "more"),
    [("fedavg-lora", {}), ("fedavg-lora", SECURE), ("feda2-lora", {})],
    ids=["plain", "secure", "FedA²"],
)
def test_without_noise_a_private_run_is_the_plain_one(method, more, quick, federate) -> None:
    plain = ran(federate(quick(method, **FOUR, rounds=1)))
    private = ran(federate(quick(method, **FOUR, rounds=1, privacy={**NOISELESS, **more})))
    assert_near(plain, private, 2e-7)
    assert private.accountant.noise_multiplier == pytest.approx(
        1e-9 / (2**0.5 if method == "feda2-lora" else 1)
    )
    assert not any(n.startswith("train/") for n in private.last_metrics)


def test_the_budget_ends_the_run_and_stands_in_ledger_and_summary(quick, federate) -> None:
    budget = Accountant(1.0, 0.5, 1e-3).epsilon(2) + 0.01
    dp = {"clip": 0.1, "noise_multiplier": 1.0, "epsilon": budget, "delta": 1e-3, "seeded": True}
    settings = {**FOUR, "rounds": 3, "cohort": {"fraction": 0.5}, "privacy": {"dp": dp}}
    federation = ran(federate(quick("fedavg-lora", **settings), "budget"))
    last = federation.rounds
    assert last == 2
    spent = [e["epsilon"] for e in federation.folder.history("ledger.jsonl")]
    assert len(spent) == last == federation.round
    assert spent == sorted(spent)
    assert spent[-1] <= budget < federation.accountant.epsilon(last + 1)
    ended = f"the privacy budget of epsilon {budget:g} ended it after round 2 of 3"
    assert federation.totals.status() == f"complete, but {ended}"
    assert privacy_summary(federation)["spent"] == {"epsilon": spent[-1], "delta": 1e-3, "rounds": last}
    again = ran(federate(quick("fedavg-lora", **settings)))
    assert all(torch.equal(t, again.state.shared[n]) for n, t in federation.state.shared.items())


def test_clients_of_a_private_round_are_drawn_each_by_its_own_coin(quick, federate) -> None:
    federation = federate(quick("fedavg-lora", **TEN, cohort={"fraction": 0.3}, privacy={"dp": {}}))
    sizes = [len(federation.cohort(number)) for number in range(1, 401)]
    assert sum(sizes) / 400 == pytest.approx(3.0, abs=0.4)
    assert min(sizes) == 0
    assert max(sizes) > 5


def test_a_private_round_without_clients_still_adds_its_noise(quick, federate) -> None:
    federation = federate(quick("fedavg-lora", **FOUR, rounds=1, privacy={"dp": {"seeded": True}}), "nobody")
    federation.cohort = lambda number: []
    before = dict(federation.state.shared)
    federation.run()
    assert federation.totals.skipped_rounds == 0
    assert all(not torch.equal(t, before[n]) for n, t in federation.state.shared.items())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"privacy": {"secure": {"least": 5}}}, "opens no sum of fewer than 5 clients, and a round asks 4"),
        (
            {"privacy": {"secure": {"least": 4}}},
            "fewer than 4 clients, and 3 hold encoder.audio; give more clients",
        ),
        (
            {"privacy": {"dp": {"epsilon": 0.01}}},
            "privacy.dp: the first round alone would pass the budget; raise epsilon",
        ),
    ],
)
def test_what_could_never_work_is_said_before_the_first_round(settings, why, quick) -> None:
    with pytest.raises(ExperimentError, match=why):
        build(quick("fedavg-lora", **FOUR, **settings), None, lambda told: None)


def test_a_group_that_stays_with_each_client_needs_no_holders(quick) -> None:
    method = {"name": "fedavg-lora", "personal": ["encoder.audio"]}
    build(quick(method, **FOUR, privacy={"secure": {"least": 4}}), None, lambda told: None)
