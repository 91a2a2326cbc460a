"""What pFedMMA and its baselines promise beyond the contract matrix, in federations on a random CLIP."""

from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation
from fedloom.federation.settings import Round
from fedloom.methods import METHODS, State
from fedloom.methods.pfedmma import SHARED
from fedloom.methods.pfedmoap import EXPERTS, MINE
from fedloom.methods.promptfl import proximal
from fedloom.models.clip.multimodal_adapter import MultimodalAdapter
from tests.methods.silos import Cohort

CONTEXT = "prompt/context"


def listen(federation: Federation) -> list[dict[str, Any]]:
    """(sent, answered) of every client, round by round."""
    rounds: list[dict[str, Any]] = []
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        while len(rounds) < at.number:
            rounds.append({})
        reply = original(client, method, task, payload, at)
        rounds[at.number - 1][client.name] = (payload, reply.payload)
        return reply

    federation.engine._ask_one = spy
    return rounds


@pytest.mark.identities
def test_4_s_is_one_at_all_clients_and_the_weighted_mean_and_nothing_else_is_the_servers(
    quick, federate
) -> None:
    federation = federate(quick("pfedmma", rounds=3, cohort={"fraction": 0.6}))
    rounds = listen(federation)
    own: list[dict[str, dict[str, torch.Tensor]]] = []

    def told(progress) -> None:
        if progress.client is None and progress.round:
            own.append({n: dict(c.personal) for n, c in federation.clients.items()})

    federation.observe = told
    federation.run()
    assert len({tuple(sorted(r)) for r in rounds}) > 1
    sizes = {n: len(c.data.train) for n, c in federation.clients.items()}
    assert len(set(sizes.values())) > 1
    replies = rounds[-1]
    total = sum(sizes[c] for c in replies)
    for name, shared in federation.state.shared.items():
        assert name.startswith("adapter/shared.")
        expected = sum(sizes[c] / total * r.tensors[name].double() for c, (_, r) in replies.items())
        torch.testing.assert_close(shared.double(), expected, rtol=1e-6, atol=1e-8)
        models = [federation.client_model(c).tensors[name] for c in federation.clients.values()]
        assert all(torch.equal(m, shared) for m in models)  # participants or not
    for client, (sent, answered) in replies.items():
        assert {n.split(".")[0] for n in (*sent.tensors, *answered.tensors)} == {"adapter/shared"}
        model = federation.client_model(federation.clients[client]).tensors
        assert all(torch.equal(model[n], t) for n, t in own[-1][client].items())
    away = set(federation.clients) - set(replies)
    assert all(torch.equal(t, own[-2][c][n]) for c in away for n, t in own[-1][c].items())
    text = {c: own[-1][c]["adapter/text.1.down.weight"] for c in federation.clients}
    assert not all(torch.equal(t, next(iter(text.values()))) for t in text.values())


def test_clients_are_evaluated_with_the_servers_s_or_with_their_own(quick, federate) -> None:
    model = {}
    for point in ("after_broadcast", "before_upload"):
        federation = federate(quick({"name": "pfedmma", "eval_point": point}))
        rounds = listen(federation)
        federation.run()
        client = federation.clients["image-01"]
        name = "adapter/shared.1.weight"
        model[point] = federation.client_model(client).tensors
        expected = (
            federation.state.shared if point == "after_broadcast" else rounds[-1]["image-01"][1].tensors
        )
        assert torch.equal(model[point][name], expected[name])
    assert model["after_broadcast"].keys() == model["before_upload"].keys()


@pytest.mark.parametrize("share", list(SHARED))
def test_what_travels_is_said_by_one_option(share) -> None:
    scope = METHODS["pfedmma"](share=share).scope
    parts = {
        "s": "adapter/shared.1.weight",
        "text": "adapter/text.1.up.weight",
        "vision": "adapter/vision.2.down.bias",
    }
    shared = {part for part, name in parts.items() if scope.role(name) == "shared"}
    expected = {
        "s": {"s"},
        "s_and_text": {"s", "text"},
        "s_and_vision": {"s", "vision"},
        "text_only": {"text"},
        "vision_only": {"vision"},
        "towers": {"text", "vision"},
        "all": set(parts),
        "none": set(),
    }[share]
    assert shared == expected
    assert all(scope.role(parts[p]) == "personal" for p in set(parts) - shared)


def test_a_preset_stands_below_what_is_given() -> None:
    released = METHODS["pfedmma"].model_validate({"preset": "released"})
    assert (released.blocks, released.rank, released.bias) == (8, 32, True)
    own = METHODS["pfedmma"].model_validate({"preset": "released", "blocks": 2})
    assert (own.blocks, own.bias) == (2, True)
    assert own.clip_adapter == MultimodalAdapter(blocks=2, bias=True)
    assert METHODS["pfedmma"]() == METHODS["pfedmma"](preset="paper", blocks=3, bias=False)
    assert METHODS["pfedmma"].model_validate(own.model_dump()) == own


@pytest.mark.parametrize("name", ["pfedmma", "mma"])
def test_13_the_released_preset_runs_two_rounds(name, quick, federate) -> None:
    federation = federate(quick({"name": name, "preset": "released", "blocks": 3}))
    federation.run()
    assert federation.round == 2
    assert any(n.endswith("bias") for n in federation.engine.model.tensors)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": {"optimizer": "adamw"}}, "set training.optimizer: sgd"),
        ({"training": {"clip": 1.0}}, "set training.clip: null"),
        ({"method": "fedavg-lora"}, "method fedavg-lora trains nothing on CLIP.*take pfedmma"),
        ({"method": "centralised"}, "method centralised trains nothing on CLIP"),
        ({"cohort": {"start": "own"}}, "set cohort.start: common"),
        ({"method": {"name": "pfedmoap", "personal": ["prompt"]}}, "leave method.personal out"),
        (
            {"method": {"name": "pfedmma", "warm_start": {"method": "promptfl", "rounds": 1}}},
            "do not share the same tensors",
        ),
        ({"data": {"source": "tabletop"}}, "method pfedmma trains a part of CLIP; set data.source: classes"),
        ({"method": {"name": "pfedmma", "preset": "mine"}}, "method.preset"),
        ({"method": {"name": "pfedmma", "template": "a photo"}}, "method.template"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(change, says, quick) -> None:
    fields = quick("pfedmma").as_dict()
    for part, value in change.items():
        fields[part] = {**fields[part], **value} if part == "training" else value
    with pytest.raises(ExperimentError, match=says):
        Experiment.parse(fields)


def test_forced_or_without_rescaling_adamw_is_allowed(quick) -> None:
    for method in ({"force": True}, {"grad_rescale": False}):
        quick({"name": "pfedmma", **method}, training={"optimizer": "adamw", "clip": 1.0})


@pytest.mark.identities
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_optimiser_outlives_a_participation(optimizer, quick, federate) -> None:
    """T2: a client's second round ends where it would from the same tensors in a new process."""
    federation = federate(quick("promptfl", training={"optimizer": optimizer}, engine={"cohort": "off"}))
    rounds = listen(federation)
    federation.run()
    sent, answered = rounds[1]["image-02"]
    fresh = federate(quick("promptfl", training={"optimizer": optimizer}, engine={"cohort": "off"}))
    again = fresh.engine.ask(fresh.method, "train", {"image-02": sent}, Round(2, 2, 0), lambda *_: None)[
        0
    ].payload
    assert torch.equal(again.tensors[CONTEXT], answered.tensors[CONTEXT])


@pytest.mark.identities
def test_promptfl_s_proximal_term_is_on_the_live_parameters(quick, federate) -> None:
    draw = torch.Generator().manual_seed(0)
    w, centre = (torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    w.requires_grad_()
    loss = proximal(0.6, {"a": centre}, {"a": w})
    loss.backward()
    torch.testing.assert_close(w.grad, 0.6 * (w.detach() - centre), rtol=1e-10, atol=1e-12)
    near, far = (federate(quick({"name": "promptfl", "prox": mu}, rounds=1)) for mu in (50.0, 0.0))
    moved = []
    for federation in (near, far):
        start = federation.state.shared[CONTEXT].clone()
        federation.run()
        moved.append(float((federation.state.shared[CONTEXT] - start).norm()))
    assert 0 < moved[0] < moved[1]


def test_zero_shot_changes_and_sends_nothing(quick, federate) -> None:
    federation = federate(quick("zero-shot"), "zero")
    federation.run()
    first, last = federation.first_metrics, federation.last_metrics
    assert first
    assert {n: last[n] for n in first} == dict(first)
    assert federation.totals.bytes_up == federation.totals.bytes_down == 0
    assert federation.totals.status() == "complete"


@pytest.mark.identities
def test_8_experts_are_those_of_before_the_round_and_as_many_as_there_are(quick, federate) -> None:
    data = {"clients": {"image": 4}}
    federation = federate(quick({"name": "pfedmoap", "contexts": 10}, data=data, rounds=3))
    rounds = listen(federation)
    federation.run()
    assert all(EXPERTS not in sent.tensors for sent, _ in rounds[0].values())  # first participation
    for before, now in ((rounds[0], rounds[1]), (rounds[1], rounds[2])):
        for client, (sent, _) in now.items():
            mine = before[client][1].tensors[CONTEXT]
            others = {c: r.tensors[CONTEXT] for c, (_, r) in before.items() if c != client}
            near = sorted(others, key=lambda c: float((others[c] - mine).norm()))
            assert torch.equal(sent.tensors[EXPERTS], torch.stack([others[c] for c in near]))  # 3 of 9
            assert sent.nbytes == 4 * sent.tensors[CONTEXT].numel() * 4
    two = federate(quick({"name": "pfedmoap", "contexts": 3}, data=data, rounds=2))
    messages = listen(two)
    two.run()
    assert all(sent.tensors[EXPERTS].shape == (2, 16, 24) for sent, _ in messages[1].values())


def test_8_gating_begins_with_the_second_participation_and_is_the_clients_own(quick, federate) -> None:
    federation = federate(quick("pfedmoap", rounds=1))
    start = {n: t for n, t in federation.engine.model.start.items() if n.startswith("gate/")}
    federation.run()
    for client in federation.clients.values():
        assert all(torch.equal(client.personal[n], t) for n, t in start.items())
    again = federate(quick("pfedmoap", rounds=2))
    rounds = listen(again)
    again.run()
    gates = [c.personal["gate/out.weight"] for c in again.clients.values()]
    assert not torch.equal(gates[0], gates[1])
    for name, client in again.clients.items():
        assert not torch.equal(client.personal["gate/out.weight"], start["gate/out.weight"])
        own = again.client_model(client).tensors
        assert torch.equal(own[CONTEXT], rounds[1][name][1].tensors[CONTEXT])  # before aggregation
        assert torch.equal(own[CONTEXT], client.personal[MINE])
        assert torch.equal(own[EXPERTS], rounds[1][name][0].tensors[EXPERTS])
        assert torch.equal(
            rounds[1][name][0].tensors[CONTEXT], next(iter(rounds[1].values()))[0].tensors[CONTEXT]
        )


@pytest.mark.identities
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["pfedmoap", "pfedmma", "promptfl", "cocoop-fedavg", "fedpgp", "fedotp"])
def test_what_travels_is_weighed_by_examples(name, dtype, tolerance) -> None:
    method, sizes = METHODS[name](), (2, 4, 6, 5, 3)
    drawn = torch.randn(5, 24, 37, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    replies = [
        Reply(f"c{k}", Payload({CONTEXT: t.to(dtype)}, {"examples": n}))
        for k, (t, n) in enumerate(zip(drawn, sizes, strict=True))
    ]
    after = method.round(
        State({CONTEXT: torch.zeros(24, 37, dtype=dtype)}), Cohort(method, [], given=replies)
    )
    want = sum(n / 20 * t for n, t in zip(sizes, drawn, strict=True))
    assert float((after.shared[CONTEXT].double() - want).norm() / want.norm()) < tolerance
    if name == "pfedmoap":  # the others' experts are the contexts themselves
        assert all(
            torch.equal(after.tensors[f"last/{r.client}"], r.payload.tensors[CONTEXT]) for r in replies
        )


def test_random_experts_go_by_the_seed(quick, federate) -> None:
    chosen = []
    for seed in (0, 0, 1):
        settings = {"data": {"clients": {"image": 6}}, "seed": seed}
        federation = federate(quick({"name": "pfedmoap", "contexts": 3, "experts": "random"}, **settings))
        rounds = listen(federation)
        federation.run()
        last = {c: r.tensors[CONTEXT] for c, (_, r) in rounds[0].items()}
        picked = {}
        for client, (sent, _) in rounds[1].items():
            rows = sent.tensors[EXPERTS]
            picked[client] = [next(c for c, t in last.items() if torch.equal(t, row)) for row in rows]
            assert client not in picked[client]
            assert len(set(picked[client])) == 2
        chosen.append(picked)
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("method", ["fedpgp", "fedotp"])
def test_the_personal_half_never_travels(method, quick, federate) -> None:
    federation = federate(quick(method))
    rounds = listen(federation)
    federation.run()
    assert {n for r in rounds for pair in r.values() for p in pair for n in p.tensors} == {CONTEXT}
    one, two = (federation.clients[f"image-0{i}"].personal for i in (1, 2))
    assert one.keys() == two.keys()
    assert all(not torch.equal(one[n], two[n]) for n in one)


def test_everybody_may_be_asked_in_the_first_round(quick, federate) -> None:
    federation = federate(quick("promptfl", cohort={"fraction": 0.3, "full_first_round": True}))
    assert [len(federation.cohort(number)) for number in (1, 2)] == [3, 1]


def test_13_the_seed_0_is_a_seed(quick, federate) -> None:
    starts = [federate(quick("promptfl", seed=seed)).engine.model.start[CONTEXT] for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
