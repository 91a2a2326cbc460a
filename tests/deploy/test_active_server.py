"""A server that steps between the sites of a secure sum, through the deployment's engine, wire and trainers.

Each attack is found out by name at every site that it concerns, and nothing is opened.
"""

import dataclasses
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.deploy import server
from fedloom.deploy.certificates import write_signing_key
from fedloom.deploy.demands import Budget, Spending
from fedloom.deploy.server import Described, ask_descriptions
from fedloom.deploy.settings import experiment_digest
from fedloom.deploy.site_list import change_list
from fedloom.deploy.wire import Request
from fedloom.experiment.settings import Experiment
from fedloom.privacy.differential.accountant import Accountant
from fedloom.privacy.secure.masks import public_key
from fedloom.privacy.secure.messages import CONSISTENCY, KEYS, MASKED, OURS, SHARES, SIGNED_PHASES, UNMASK
from fedloom.privacy.secure.messages import to_tensor as tensor
from fedloom.privacy.settings import DP
from tests.deploy.mallory import Mallory, with_numbers, with_tensors
from tests.deploy.silos import Silos

NAMES = ("image-01", "image-02", "image-03")
NORTH, SOUTH, WEST = NAMES


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> tuple[Mallory, Any]:
    """Three sites with a list, the server's federation, and whoever stands between: loaded once."""
    experiment = Experiment.parse(
        {
            "rounds": 1,
            "method": {"name": "ffa-lora", "weights": "uniform"},
            "data": {"clients": {"image": 3}, "train": 2, "test": 1},
            "model": {"llm_lora": {"rank": 2}},
            "evaluation": {"generate": False, "controls": False, "samples": 0},
            "engine": {"cohort": "off"},
            "privacy": {"secure": {"least": 2}},
        }
    )
    silos = Silos(experiment, NAMES, tmp_path_factory.mktemp("sites"))
    mallory = Mallory(silos)
    described = ask_descriptions(mallory, "a" * 32, experiment_digest(experiment), NAMES)
    assert set(described) == set(NAMES)
    assert isinstance(described[NORTH], Described)
    federation = server.build_server(
        experiment, described, mallory, None, "a" * 32, site_list=silos.site_list
    )
    return mallory, federation


@pytest.fixture
def mallory(loaded) -> Mallory:
    mallory, _ = loaded
    mallory.seen.clear()
    mallory.change = lambda site, request: request
    for name in NAMES:
        (mallory.silos.folder / name / "turned-away").unlink(missing_ok=True)
    return mallory


@pytest.fixture
def summed(loaded, mallory) -> Callable[..., dict[str, Any]]:
    """Runs one round's sum under an attack; returns its entry of the ledger."""
    _, federation = loaded

    def run(change: Callable[[str, Request], Request] | None = None) -> dict[str, Any]:
        mallory.change = change or (lambda site, request: request)
        federation.engine.run = uuid.uuid4().hex
        mallory.seen.clear()
        entries: list[dict[str, Any]] = []
        federation._computed(federation.method, 1, entries)
        return entries[0]

    return run


def assert_found_out(mallory: Mallory, entry: dict[str, Any], sentence: str, *sites: str) -> None:
    """Every one of these sites refused with the sentence and told its own people; nothing was opened."""
    assert entry["answered"] == []
    for site in sites:
        said = [a.error for s, _, a in mallory.seen if s == site and a.error is not None]
        assert any(sentence in error for error in said), said
        assert sentence in (mallory.silos.folder / site / "turned-away").read_text()
    assert mallory.answered(UNMASK) == {}


def test_honest_sums_are_opened_and_every_phase_is_signed(summed, mallory) -> None:
    entry = summed()
    assert entry["answered"] == list(NAMES)
    assert [phase["request"] for phase in entry["phases"]] == list(SIGNED_PHASES)
    for phase in (KEYS, SHARES, CONSISTENCY):
        assert all(f"{OURS}signature" in p.tensors for p in mallory.answered(phase).values())
    assert all(not (mallory.silos.folder / name / "turned-away").exists() for name in NAMES)


def test_swapped_keys_are_found_out_before_any_share_leaves(summed, mallory) -> None:
    own = tensor(public_key(b"m" * 32))

    def change(site: str, request: Request) -> Request:
        if request.name != SHARES or site == SOUTH:
            return request
        return with_tensors(request, {f"{OURS}sealing/{SOUTH}": own})

    entry = summed(change)
    assert_found_out(
        mallory, entry, f"the keys of {SOUTH} in this sum are not signed by {SOUTH}", NORTH, WEST
    )
    assert set(mallory.answered(SHARES)) == {SOUTH}
    assert f"secure/shares: raised ProtocolError: the keys of {SOUTH}" in entry["refused"][NORTH]


def test_a_client_that_the_server_makes_up_is_in_no_list(summed, mallory) -> None:
    def change(site: str, request: Request) -> Request:
        if request.name != SHARES:
            return request
        ours = request.payload.numbers[OURS]
        new = {"sealing": public_key(b"m" * 32), "masking": public_key(b"n" * 32), "signature": b"s" * 64}
        request = with_numbers(
            request, groups={**ours["groups"], "image-04": ours["groups"][NORTH]}, threshold=3
        )
        return with_tensors(request, {f"{OURS}{kind}/image-04": tensor(v) for kind, v in new.items()})

    entry = summed(change)
    assert_found_out(mallory, entry, "image-04 is not in the signed list of sites", *NAMES)
    assert mallory.answered(SHARES) == {}


def test_two_rosters_are_found_out_before_any_masked_word_leaves(summed, mallory) -> None:
    """One site is told of two clients and the others of three; all keys in both rosters are signed by their owners."""

    def change(site: str, request: Request) -> Request:
        ours = request.payload.numbers.get(OURS, {})
        if request.name == SHARES and site == SOUTH:
            groups = {c: g for c, g in ours["groups"].items() if c != WEST}
            gone = {f"{OURS}{kind}/{WEST}": None for kind in ("sealing", "masking", "signature")}
            return with_tensors(with_numbers(request, groups=groups), gone)
        if request.name == MASKED and site == NORTH:  # the server that lies passes on what it got
            theirs = mallory.answered(SHARES)[SOUTH].tensors
            own = {
                f"{OURS}from/{SOUTH}": theirs[f"{OURS}to/{NORTH}"],
                f"{OURS}signature/{SOUTH}": theirs[f"{OURS}signature"],
            }
            return with_tensors(request, own)
        return request

    entry = summed(change)
    assert_found_out(mallory, entry, f"{SOUTH} has not signed this roster", NORTH)
    assert NORTH not in mallory.answered(MASKED)


def test_the_keys_of_an_earlier_sum_are_signed_for_that_one_alone(summed, mallory) -> None:
    summed()
    earlier = mallory.answered(KEYS)[SOUTH].tensors

    def change(site: str, request: Request) -> Request:
        if request.name != SHARES or site == SOUTH:
            return request
        return with_tensors(
            request,
            {f"{OURS}{kind}/{SOUTH}": earlier[OURS + kind] for kind in ("sealing", "masking", "signature")},
        )

    entry = summed(change)
    assert_found_out(
        mallory, entry, f"the keys of {SOUTH} in this sum are not signed by {SOUTH}", NORTH, WEST
    )
    assert set(mallory.answered(SHARES)) == {SOUTH}


def test_a_session_is_for_one_sum_and_after_a_restart_the_roster_tells_it_from_the_earlier(
    summed, mallory
) -> None:
    """South has fallen silent in the earlier sum, so that the server has opened its mask key; then it is played again."""
    summed()
    [session] = {r.payload.numbers[OURS]["session"] for _, r, _ in mallory.seen}
    earlier = mallory.answered(KEYS)[SOUTH].tensors
    old_signature = mallory.answered(SHARES)[SOUTH].tensors[f"{OURS}signature"]

    def change(site: str, request: Request) -> Request:
        if OURS not in request.payload.numbers:
            return request
        request = with_numbers(request, session=session)
        if request.name == SHARES:
            replayed = {f"{OURS}{k}/{SOUTH}": earlier[OURS + k] for k in ("sealing", "masking", "signature")}
            return with_tensors(request, replayed)
        if request.name == MASKED:
            return with_tensors(
                request,
                {f"{OURS}signature/{SOUTH}": old_signature, f"{OURS}from/{SOUTH}": tensor(b"x")},
            )
        return request

    entry = summed(change)
    assert_found_out(mallory, entry, "this session was begun before, and a session is for one sum", *NAMES)
    for trainer in mallory.silos.trainers.values():
        trainer.client.sums.clear()  # as after a restart
    # What the honest server would refuse itself, this one passes on.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedloom.privacy.secure.authentication.Witness._checked", lambda *_: b"s" * 64)

        def with_signatures(site: str, request: Request) -> Request:
            request = change(site, request)
            phase = {SHARES: KEYS, MASKED: SHARES}.get(request.name, "")
            new = {s: p.tensors[f"{OURS}signature"] for s, p in mallory.answered(phase).items() if s != SOUTH}
            return with_tensors(request, {f"{OURS}signature/{s}": t for s, t in new.items()})

        entry = summed(with_signatures)
    assert {NORTH, WEST} <= set(mallory.answered(SHARES)), "keys, session and round of the earlier sum do fit"
    assert_found_out(mallory, entry, f"{SOUTH} has not signed this roster", NORTH, WEST)
    assert mallory.answered(MASKED) == {}


def test_two_lists_of_survivors_open_nothing(summed, mallory) -> None:
    def change(site: str, request: Request) -> Request:
        if request.name not in (CONSISTENCY, UNMASK) or site != NORTH:
            return request
        return with_numbers(request, survivors=[NORTH, SOUTH])

    entry = summed(change)
    for site in (SOUTH, WEST):
        assert site in mallory.answered(CONSISTENCY)
    assert NORTH not in mallory.answered(UNMASK)
    said = (mallory.silos.folder / NORTH / "turned-away").read_text()
    assert "has not signed this list of survivors" in said
    assert entry["phases"][-1]["lost"][NORTH].endswith("(list of sites 1)")


def test_who_has_signed_one_list_of_survivors_signs_and_opens_no_other(summed, mallory) -> None:
    def change(site: str, request: Request) -> Request:
        return (
            with_numbers(request, survivors=[NORTH, SOUTH])
            if request.name == UNMASK and site == NORTH
            else request
        )

    summed(change)
    assert NORTH not in mallory.answered(UNMASK)
    assert "signed another list of survivors" in (mallory.silos.folder / NORTH / "turned-away").read_text()


def test_a_newer_list_reaches_every_site_with_the_next_question_and_an_older_one_is_refused(
    summed, mallory, tmp_path
) -> None:
    folder = mallory.silos.folder
    older = (folder / "server" / "sites.json").read_text()
    newer = change_list(
        folder / "server",
        folder / "server" / "ca.key",
        add={"east": write_signing_key(Path(tmp_path) / "east.key")},
    )
    assert summed()["answered"] == list(NAMES)
    assert {(folder / name / "sites.json").read_text() for name in NAMES} == {newer.text}
    entry = summed(lambda site, request: dataclasses.replace(request, sites=older))
    assert_found_out(mallory, entry, "has version 1, and this site has 2 already", *NAMES)
    entry = summed(
        lambda site, request: dataclasses.replace(
            request, sites=newer.text.replace('"version": 2', '"version": 3')
        )
    )
    assert_found_out(mallory, entry, "is not signed by this federation's CA", *NAMES)


def test_a_sum_with_fewer_fellows_than_a_site_demands_is_refused_before_any_share_leaves(
    summed, mallory, monkeypatch
) -> None:
    client = mallory.silos.trainers[NORTH].client
    monkeypatch.setattr(client, "safeguards", dataclasses.replace(client.safeguards, fellows=2))
    entry = summed()
    said = "could be opened with 1, and image-01 demands 2 (3 clients take part)"
    assert said in entry["refused"][NORTH]
    assert said in (mallory.silos.folder / NORTH / "turned-away").read_text()
    assert NORTH not in mallory.answered(SHARES)
    assert entry["answered"] == [SOUTH, WEST], "the others lose nothing"


def test_a_site_whose_budget_is_spent_takes_part_in_no_further_sum(summed, mallory, monkeypatch) -> None:
    folder, dp = mallory.silos.folder / NORTH, DP(noise_multiplier=2.0)
    epsilon = Accountant.of(dp, 1.0).epsilon(2) + 0.01
    monkeypatch.setattr(
        mallory.silos.trainers[NORTH], "spending", Spending(folder, Budget(epsilon=epsilon), dp)
    )
    for _ in range(2):  # each a run of its own
        assert summed()["answered"] == list(NAMES)
    entry = summed()
    assert entry["answered"] == [SOUTH, WEST]
    assert "it has spent" in entry["refused"][NORTH]
    assert NORTH not in mallory.answered(KEYS), "nothing is trained for it, either"
