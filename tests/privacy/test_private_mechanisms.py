"""Adaptive clipping and correlated noise through whole federations: resume, keys, order of clients, ledger, refusals."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.payload import Reply
from fedloom.experiment.build import build
from fedloom.federation.loop import Federation

SIX = {"data": {"clients": {"image": 6}, "train": 2, "test": 1}, "training": {"batch_size": 2}, "rounds": 3}
QUANTILE: dict[str, Any] = {"clip": {"quantile": 0.5, "start": 0.2}, "seeded": True}
TREE: dict[str, Any] = {"mechanism": "tree", "clip": 0.2, "noise_multiplier": 1.0}
TURNS = {"cohort": {"fraction": 0.5}}


def private(quick, dp: Mapping[str, Any], method: Any = "ffa-lora", **more: Any):
    privacy = {"dp": dp, **more.pop("privacy", {})}
    return quick(method, **{**SIX, **more}, privacy=privacy)


def ran(federation: Federation) -> Federation:
    federation.run()
    return federation


def same(one: Federation, two: Federation) -> bool:
    return all(torch.equal(t, two.state.shared[n]) for n, t in one.state.shared.items())


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def cut_off(federation: Federation, request: str, after: int) -> Federation:
    """Run until this request is sent for the time `after` + 1."""
    ask, requests = federation.engine.ask, []

    def killed(method: Any, name: str, *rest: Any) -> list[Reply]:
        requests.append(name)
        if requests.count(request) == after + 1:
            raise Killed
        return ask(method, name, *rest)

    federation.engine.ask = killed
    with pytest.raises(Killed):
        federation.run()
    return federation


def resumed(experiment: Any, cut: Federation) -> Federation:
    again = build(experiment, cut.folder, lambda told: None)
    again.resume(cut.folder.last())
    return ran(again)


@pytest.mark.parametrize(
    ("dp", "more"),
    [
        (QUANTILE, {}),
        (QUANTILE, {"privacy": {"secure": {}}}),
        ({**TREE, "seeded": True}, TURNS),
        ({**TREE, "mechanism": "toeplitz", "seeded": True}, TURNS),
    ],
    ids=["quantile", "quantile, secure", "tree", "toeplitz"],
)
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(dp, more, quick, federate) -> None:
    experiment = private(quick, dp, **more)
    whole = ran(federate(experiment))
    request = "secure/masked" if "privacy" in more else "train"
    again = resumed(experiment, cut_off(federate(experiment, "cut"), request, 2))
    assert again.round == 3
    if "privacy" not in more:  # a secure sum is the same up to the order in which its words are rounded
        assert same(whole, again)
    assert again.mechanism.clips == whole.mechanism.clips
    before = whole.method.start(whole.engine.model.start).shared
    assert any(not torch.equal(t, before[n]) for n, t in whole.state.shared.items())


def test_secret_noise_is_taken_back_after_a_resume_and_its_key_goes_with_the_last_round(
    quick, federate
) -> None:
    experiment = private(quick, {**TREE, "clip": 1e-3}, **TURNS)
    cut = cut_off(federate(experiment, "cut"), "train", 1)
    key = cut.folder.state / "noise.key"
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_bytes()
    again = build(experiment, cut.folder, lambda told: None)
    again.resume(cut.folder.last())
    again.run()
    assert again.mechanism.key == secret
    assert not key.exists()
    build(experiment, cut.folder, lambda told: None).resume(
        cut.folder.last()
    )  # a run that is over needs none


def test_the_noise_of_a_model_is_that_of_a_prefix(quick, federate) -> None:
    """Changes cut to next to nothing: after round 2 the model is off by one node of the tree, not by two rounds' noise."""
    noise = []
    for rounds in (1, 2, 3):
        dp = {**TREE, "clip": 1e-6, "noise_multiplier": 1e6, "seeded": True}
        federation = ran(federate(private(quick, dp, **TURNS, rounds=rounds)))
        start = federation.method.start(federation.engine.model.start).shared
        off = torch.cat([(t - start[n]).flatten() for n, t in sorted(federation.state.shared.items())])
        noise.append(3 * off.std())  # half of six clients are expected
    assert [float(x) for x in noise] == pytest.approx([1, 1, 2**0.5], rel=0.03)


def test_clients_in_turns_stay_those_with_which_the_run_began(quick, federate) -> None:
    experiment = private(quick, {**TREE, "seeded": True}, **TURNS)
    cut = cut_off(federate(experiment, "cut"), "train", 1)
    again = build(experiment, cut.folder, lambda told: None)
    del again.engine.clients[again.names[0]]
    del again.names
    with pytest.raises(ExperimentError, match="go on with the same ones"):
        again.resume(cut.folder.last())


def test_a_missing_key_is_said_and_a_damaged_one_too(quick, federate) -> None:
    experiment = private(quick, TREE, **TURNS)
    cut = cut_off(federate(experiment, "cut"), "train", 1)
    (cut.folder.state / "noise.key").write_bytes(b"short")
    with pytest.raises(DiskError, match="5 bytes instead of 32"):
        resumed(experiment, cut)
    (cut.folder.state / "noise.key").unlink()
    with pytest.raises(DiskError, match=r"noise\.key is missing"):
        resumed(experiment, cut)


@pytest.mark.parametrize(
    ("dp", "more"), [(QUANTILE, {}), ({**TREE, "seeded": True}, TURNS)], ids=["quantile", "tree"]
)
def test_the_order_in_which_clients_answer_changes_no_bit(dp, more, quick, federate) -> None:
    experiment = private(quick, dp, **more)
    forward, backward = federate(experiment), federate(experiment)
    ask = backward.engine.ask
    backward.engine.ask = lambda *given: ask(*given)[::-1]
    assert same(ran(forward), ran(backward))
    assert forward.mechanism.clips == backward.mechanism.clips


def test_clip_and_budget_stand_in_the_ledger_and_two_sums_have_two_clips(quick, federate) -> None:
    dp = {**QUANTILE, "noise_multiplier": "calibrated", "epsilon": 8.0}
    federation = ran(federate(private(quick, dp, "feda2-lora"), "run"))
    entries = federation.folder.history("ledger.jsonl")
    assert [e["request"] for e in entries] == ["average", "project"] * 3
    clips = [[e["clip"] for e in entries if e["request"] == r] for r in ("average", "project")]
    assert clips[0][0] == clips[1][0] == 0.2
    assert clips[0] != clips[1]
    assert set(federation.mechanism.clips) == {"average", "project"}
    metrics = federation.folder.history("metrics.jsonl")
    assert [x["value"] for x in metrics if x["name"] == "privacy/clip"] == clips[0]
    assert 7.9 < entries[-1]["epsilon"] <= 8.0
    assert federation.experiment.privacy.dp.noise_multiplier > 1


def test_what_a_method_keeps_is_neither_clipped_nor_noised(quick, federate) -> None:
    """FedSA-LoRA shares A: B stays with its client, and the noisy vector has A's size alone."""
    dp = {"clip": 1e-6, "noise_multiplier": 1e-6, "seeded": True}
    federation = federate(private(quick, dp, "fedsa-lora", rounds=1))
    sizes: list[int] = []
    noise = federation.mechanism.noise

    def counted(round: int, request: str, group: str, tensors: Mapping[str, int]) -> torch.Tensor:
        assert all(name.endswith("lora_A") or "projector" in name for name in tensors)
        sizes.append(sum(tensors.values()))
        return noise(round, request, group, tensors)

    federation.mechanism.noise = counted
    federation.run()
    assert sum(sizes) == sum(t.numel() for t in federation.state.shared.values())
    kept = federation.clients[federation.names[0]].personal
    moved = [float((t - federation.engine.model.start[n]).norm()) for n, t in kept.items() if "lora_B" in n]
    assert max(moved) > 1e-3


def test_a_method_that_asks_more_often_than_it_says_is_stopped(quick, federate) -> None:
    federation = federate(private(quick, QUANTILE))
    kind = type(federation.method)

    class Twice(kind):
        def round(self, state: Any, ask: Any) -> Any:
            super().round(state, ask)
            return super().round(state, ask)

    federation.experiment = federation.experiment.model_copy(
        update={"method": Twice(**federation.method.model_dump())}
    )
    federation.method = federation.experiment.method
    with pytest.raises(ExperimentError, match="asks for more than 1 sums in a round"):
        federation.run()


@pytest.mark.parametrize(
    ("dp", "more", "why"),
    [
        ({"mechanism": "tree"}, {"privacy": {"secure": {}}}, "leave privacy.secure out"),
        ({"mechanism": "tree", "clip": {"quantile": 0.5}}, {}, "set privacy.dp.clip to a number"),
        ({"mechanism": "tree"}, {"cohort": {"fraction": 0.4}}, "one over a whole number"),
        ({"mechanism": "toeplitz"}, {"method": "rolora"}, "method rolora changes them"),
        ({"mechanism": "tree", "restart": 3}, {}, "restart: 3 is never reached in 3 rounds"),
        ({"restart": 2}, {}, "privacy.dp.restart is read only with privacy.dp.mechanism other than gaussian"),
        ({"mechanism": "tree"}, {"cohort": {"quorum": 0.2}}, "cohort.quorum is read only with"),
        ({}, {"firewall": {"norm_ratio": 3.0}}, "firewall.norm_ratio is read only with"),
        ({}, {"attack": {"kind": "sign_flip"}}, "attack.kind: sign_flip changes single clients' replies"),
        ({"noise_multiplier": "calibrated"}, {}, "calibrated needs the epsilon"),
        ({"noise_multiplier": "auto"}, {}, "privacy.dp.noise_multiplier"),
        ({"clip": {"quantil": 0.5}}, {}, "did you mean quantile"),
        ({"clip": {"quantile": 1.0}}, {}, "privacy.dp.clip.quantile"),
        ({"clip": {"noise": 0.5}}, {}, "privacy.dp.clip.noise"),
        ({"clip": 0}, {}, "privacy.dp.clip"),
    ],
)
def test_what_cannot_work_is_one_sentence(dp, more, why, quick) -> None:
    more = dict(more)
    with pytest.raises(ExperimentError, match=why) as caught:
        private(quick, dp, more.pop("method", "ffa-lora"), **more)
    assert "\n" not in str(caught.value)


def test_noise_that_words_would_cut_is_refused_and_a_large_delta_is_said(quick) -> None:
    dp = {"clip": 5.0, "noise_multiplier": 5.0}
    with pytest.raises(ExperimentError, match=r"privacy\.secure\.clip: 8 would cut noise of deviation 12\.5"):
        build(private(quick, dp, privacy={"secure": {}}), None, lambda told: None)
    federation = build(private(quick, {"delta": 0.2}), None, lambda told: None)
    assert any("privacy.dp.delta 0.2 is not below" in note for note in federation.engine.model.notes)
    federation = build(private(quick, {"delta": 0.1}), None, lambda told: None)
    assert not any("privacy.dp.delta" in note for note in federation.engine.model.notes)


def test_a_round_of_no_clients_is_a_round(quick, federate) -> None:
    """The noise of an empty round moves model and clip all the same."""
    federation = federate(private(quick, QUANTILE, cohort={"fraction": 0.001}), "empty")
    assert federation.cohort(1) == []
    federation.run()
    assert federation.totals.skipped_rounds == 0
    assert all(e["asked"] == [] for e in federation.folder.history("ledger.jsonl"))
    assert "train" in federation.mechanism.clips


def test_a_secure_round_of_no_clients_changed_nothing_and_the_status_says_so(quick, federate) -> None:
    """No client is there to add the noise, so that the model stays as it was."""
    settings = {"cohort": {"fraction": 0.5}, "privacy": {"secure": {"least": 2}}, "rounds": 1}
    federation = federate(private(quick, {"clip": 0.2}, **settings))
    federation.cohort = lambda number: []
    federation.run()
    assert federation.totals.skipped_rounds == 1
    assert federation.status() == "complete, but 1 rounds without a quorum changed nothing"
