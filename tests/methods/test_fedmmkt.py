"""FedMMKT's round through a federation, on a random generator and captioner: specification fedmmkt 11."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply, group_of
from fedloom.data.digits import DIGITS, mask_names
from fedloom.data.sources.labelled import as_tensor, as_texts
from fedloom.methods.base.distillation import ENTROPY, KEPT, LABELS, PROBABILITIES, VECTORS
from fedloom.methods.fedmmkt import CONFIDENCE, FUSED, LABEL
from fedloom.models.generation.public_set import into_width

CLASSES, WIDTH = 10, 24
ALL = {"name": "fedmmkt", "vote": {"threshold": 0}}
"""Keeps every item: random clients hardly ever agree."""


@pytest.fixture(autouse=True)
def _no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge has tests of its own, and takes longer than all of these runs."""
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)


def heard(federation: Any, change: Any = None) -> list[tuple[str, str, Payload, Reply]]:
    """Everything that travels: (request, client, payload down, reply); `change` may spoil a reply."""
    said: list[tuple[str, str, Payload, Reply]] = []
    original = federation.engine._ask_one

    def spy(client: Any, method: Any, request: str, payload: Payload, at: Any) -> Reply:
        reply = original(client, method, request, payload, at)
        reply = reply if change is None else change(request, reply)
        said.append((request, client.name, payload, reply))
        return reply

    federation.engine._ask_one = spy
    return said


def models(federation: Any) -> dict[str, torch.Tensor]:
    return {
        f"{c.name}:{n}": t
        for c in federation.clients.values()
        for n, t in c.personal.items()
        if group_of(n) != "public"
    }


def test_11_only_the_denoiser_changes_on_the_server(quick, federate) -> None:
    federation = federate(quick("fedmmkt", rounds=2))
    parts = federation.tools.synthesis.generator.parts
    frozen = {
        f"{name}.{n}": t.clone()
        for name in ("text_encoder", "autoencoder")
        for n, t in getattr(parts, name).state_dict().items()
    }
    federation.run()
    trained = {n: t for n, t in federation.state.tensors.items() if n.startswith("denoiser/")}
    start = federation.tools.synthesis.start
    assert trained.keys() == start.keys()
    assert any(not torch.equal(t, start[n]) for n, t in trained.items())
    for name, tensor in frozen.items():
        part, _, place = name.partition(".")
        assert torch.equal(getattr(parts, part).state_dict()[place], tensor), name


@pytest.mark.parametrize("generator", ["frozen", "self"])
def test_a_frozen_generator_stays_and_one_on_its_own_prompts_takes_as_many_steps(
    generator, quick, federate, monkeypatch
) -> None:
    federation = federate(quick({**ALL, "generator": generator}, rounds=2))
    told: list[Any] = []
    tune = federation.tools.synthesis.tune
    monkeypatch.setattr(federation.tools.synthesis, "tune", lambda *a: told.append(a) or tune(*a))
    federation.run()
    if generator == "frozen":
        assert not told
        assert not any(n.startswith("denoiser/") for n in federation.state.tensors)
        return
    (_, public, chosen, labels, confidence, _, _, steps) = told[0]
    assert torch.equal(chosen, torch.arange(len(public.prompted)))
    assert torch.equal(labels, public.prompted)
    assert bool((confidence == 1).all())
    kept = len(federation.state.tensors["vote/item"])
    assert steps == -(-kept // 4)


def test_13_no_private_sample_is_in_any_message(quick, federate) -> None:
    federation = federate(
        quick("fedmmkt", data={"clients": {"image": 2, "text": 2}}, evaluation={"every": 9})
    )
    said = heard(federation)
    federation.run()
    allowed = {"train": set(), "infer": {ENTROPY, LABELS, VECTORS}, "distil": set()}
    travelled = b""
    for request, _, down, reply in said:
        assert set(reply.payload.tensors) == allowed[request]
        travelled += reply.payload.encode() + down.encode()
    for client in federation.clients.values():
        for sample in client.data.train:
            raw = (
                sample.modalities["image"].numpy().tobytes()
                if sample.modalities
                else sample.question.encode()
            )
            assert raw not in travelled, sample.uid


def test_14_without_both_losses_it_is_local_only_bit_for_bit(quick, federate) -> None:
    ends = []
    for method in ({"name": "fedmmkt", "kd": 0, "pseudo": 0}, "fedmmkt"):
        federation = federate(quick(method))
        federation.run()
        ends.append(models(federation))
    single = federate(quick("fedmmkt").model_copy(update={"method": _local_only()}))
    single.run()
    here = models(single)
    assert here.keys() == ends[0].keys()
    assert all(torch.equal(t, ends[0][n]) for n, t in here.items())
    assert any(not torch.equal(t, ends[1][n]) for n, t in here.items())


def _local_only() -> Any:
    from fedloom.methods import METHODS

    return METHODS["local-only"]()


def test_1_if_nothing_is_kept_the_round_completes_and_says_so(quick, federate) -> None:
    federation = federate(quick({"name": "fedmmkt", "vote": {"threshold": 1.1}}, rounds=2), "nothing")
    federation.run()
    ledger = federation.folder.history("ledger.jsonl")
    assert [e["request"] for e in ledger] == ["train", "infer", "distil"]
    assert any("nothing was kept" in note for e in ledger for note in e["notes"])
    assert federation.totals.status() == "complete"
    assert not any(n.startswith("denoiser/") for n in federation.state.tensors)


@pytest.mark.parametrize(("vote", "numbers"), [("hard", 1), ("soft", CLASSES)])
def test_16_round_2_tells_the_anchors_mean_and_17_bytes_are_those_of_the_specification(
    vote, numbers, quick, federate
) -> None:
    experiment = quick({**ALL, "vote": {"threshold": 0, "vote": vote}}, rounds=2)
    federation = federate(experiment, "bytes")
    said = heard(federation)
    federation.run()
    anchors = federation.tools.synthesis.anchors(_public(federation), WIDTH)
    wanted = normalize(sum(anchors.values()) / 2, dim=-1)
    told = next(down for request, _, down, _ in said if request == "distil")
    torch.testing.assert_close(told.tensors[FUSED], wanted, rtol=1e-5, atol=1e-6)
    N = CLASSES
    for request, client, down, reply in said:
        if request == "infer":
            assert reply.payload.nbytes == 4 * N * (numbers + 1 + WIDTH)
            items = N * 3 * 16 * 16 if client.startswith("image") else None
            assert items is None or down.nbytes == items
        if request == "distil":  # the item's number besides what the specification counts
            assert down.nbytes == 4 * N * (1 + 1 + 1 + WIDTH)
            assert set(down.tensors) == {KEPT, LABEL, CONFIDENCE, FUSED}


def _public(federation: Any) -> Any:
    from fedloom.models.generation.public_set import Public

    kept = {n.partition("/")[2]: t for n, t in federation.state.tensors.items() if group_of(n) == "public"}
    return Public(kept, federation.state.tensors["prompted/label"])


def spoiled(how: str) -> Any:
    """Changes the answer of image-01 about items."""

    def change(request: str, reply: Reply) -> Reply:
        if reply.client != "image-01" or request != "infer":
            return reply
        tensors, numbers = dict(reply.payload.tensors), dict(reply.payload.numbers)
        if how == "sum":
            tensors[PROBABILITIES] = tensors[PROBABILITIES] * 1.5
        elif how == "width":
            tensors[VECTORS] = tensors[VECTORS][:, :-1]
        elif how == "more items":
            tensors = {n: torch.cat([t, t[:1]]) for n, t in tensors.items()}
        elif how == "other items":
            numbers["set"] += 1
        elif how == "entropy":
            tensors[ENTROPY] = tensors[ENTROPY] + 9
        elif how == "norm":
            tensors[VECTORS] = tensors[VECTORS] * 2
        elif how == "nothing":
            tensors.pop(VECTORS)
        elif how == "nan":
            tensors[ENTROPY] = tensors[ENTROPY] * float("nan")
        return dataclasses.replace(reply, payload=Payload(tensors, numbers))

    return change


REFUSALS = {
    "sum": "predictions: they must be probabilities that sum to 1",
    "width": "shape: answer/vector is (10, 23), (10, 24) is right",
    "more items": "shape: answer/entropy is (11,), (10,) is right",
    "other items": "items: answers about set 3, set 2 was sent",
    "entropy": "entropy: must lie between 0 and log 10",
    "norm": "representation: its rows must have norm 1",
    "nothing": "names: answer/vector is missing",
    "nan": "not finite: answer/entropy",
}


def test_a_wrong_answer_is_refused_by_name_and_the_round_goes_on(quick, federate) -> None:
    for how, reason in REFUSALS.items():
        federation = federate(quick({"name": "fedmmkt", "vote": {"vote": "soft"}}, rounds=2), how)
        heard(federation, spoiled(how))
        federation.run()
        _, infer, distil = federation.folder.history("ledger.jsonl")
        assert list(infer["refused"]) == ["image-01"], how
        assert infer["refused"]["image-01"].startswith(reason), (how, infer["refused"])
        assert distil["answered"] == ["image-02", "text-01"]


def test_a_class_that_does_not_exist_is_refused(quick, federate) -> None:
    def change(request: str, reply: Reply) -> Reply:
        if request != "infer" or reply.client != "image-01":
            return reply
        tensors = {**reply.payload.tensors, LABELS: reply.payload.tensors[LABELS] + 10}
        return dataclasses.replace(reply, payload=Payload(tensors, reply.payload.numbers))

    federation = federate(quick("fedmmkt", rounds=2), "class")
    heard(federation, change)
    federation.run()
    refused = federation.folder.history("ledger.jsonl")[1]["refused"]
    assert refused == {"image-01": "predictions: a class lies outside 0 to 9"}


def test_19_a_client_that_is_away_changes_no_other_clients_votes_but_by_its_own(quick, federate) -> None:
    """The local part of a round is each client's own: who was not asked stands where the warm-up left it."""
    federation = federate(quick("fedmmkt", rounds=2, cohort={"fraction": 0.6, "full_first_round": True}))
    said = heard(federation)
    federation.run()
    asked = {client for request, client, _, _ in said if request == "infer"}
    away = set(federation.clients) - asked
    assert len(away) == 1
    before = federate(quick("fedmmkt", rounds=1))
    before.run()
    here, there = models(federation), models(before)
    for name in here:
        same = torch.equal(here[name], there[name])
        assert same or name.partition(":")[0] not in away


def test_three_modalities_and_one_without_clients(quick, federate) -> None:
    three = {"clients": {"image": 1, "text": 1, "audio": 1}}
    for other in ("message_mean", "client_mean", "joint_multihead"):
        experiment = quick({**ALL, "fusion": {"other": other}})
        data = experiment.data.model_copy(update=three)
        federation = federate(experiment.model_copy(update={"data": data}))
        federation.run()
        found = federation.last_metrics
        assert {n for n in found if n.endswith("effective_clients")} == {
            f"fusion/{m}/effective_clients" for m in ("audio", "image", "text")
        }
    single = quick("fedmmkt")
    federation = federate(
        single.model_copy(update={"data": single.data.model_copy(update={"clients": {"image": 2}})})
    )
    federation.run()
    assert "fusion/image/effective_clients" in federation.last_metrics
    assert "fusion/text/effective_clients" not in federation.last_metrics


@pytest.mark.parametrize(
    "settings",
    [
        {"fusion": {"attention": "learned"}},
        {"fusion": {"anchor": "ridge"}},
        {"fusion": {"anchor": "other_mean", "guard": True}},
        {"labels": "prompt", "generator": "self"},
        {"vote": {"weight": "inv", "gate": "client_entropy", "rejected": "prompt_label"}},
    ],
    ids=["learned", "ridge", "other-mean", "prompt", "client-entropy"],
)
def test_the_options_run_and_are_resumed_to_the_same_bits(settings, quick, federate) -> None:
    whole = federate(quick({**ALL, **settings}), "whole")
    whole.run()
    part = federate(quick({**ALL, **settings}, rounds=3), "part")

    class Killed(BaseException):
        pass

    def stop(told: Any) -> None:
        if told.round == 2 and told.client is None:
            raise Killed

    part.observe = stop
    with pytest.raises(Killed):
        part.run()
    again = federate(quick({**ALL, **settings}))
    again.folder = part.folder
    again = dataclasses.replace(again)
    again.resume(part.folder.last())
    again.run()
    assert models(again).keys() == models(whole).keys()
    assert all(torch.equal(t, models(whole)[n]) for n, t in models(again).items())
    assert whole.state.tensors.keys() == again.state.tensors.keys()
    assert all(torch.equal(t, again.state.tensors[n]) for n, t in whole.state.tensors.items())


def test_items_serve_several_rounds_and_are_sent_once(quick, federate) -> None:
    experiment = quick("fedmmkt", rounds=4)
    synthesis = experiment.model.synthesis.model_copy(update={"every": 2})
    model = experiment.model.model_copy(update={"synthesis": synthesis})
    federation = federate(experiment.model_copy(update={"model": model}))
    said = heard(federation)
    federation.run()
    sent = [
        bool(down.tensors) for request, client, down, _ in said if request == "infer" and client == "image-01"
    ]
    assert sent == [True, False, True]


def test_12_no_caption_names_its_class() -> None:
    captions = ["a seven with a roof", "Seven, eight and 9", "a loop, evening"]
    masked = [mask_names(c, DIGITS) for c in captions]
    assert [hits for _, hits in masked] == [1, 3, 0]
    assert masked[2][0] == "a loop, evening"
    assert as_texts(as_tensor([m for m, _ in masked])) == [m for m, _ in masked]


@pytest.mark.parametrize(("e", "d"), [(12, 24), (24, 24), (64, 24)])
def test_a_wider_common_space_keeps_all_cosines(e, d) -> None:
    rows = normalize(
        torch.randn(7, e, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1
    )
    found = into_width(rows, d)
    assert found.shape == (7, d)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(7, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    if d >= e:
        torch.testing.assert_close(found @ found.T, rows @ rows.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "pfedmma"}, "is not for clients with models of their own"),
        ({"method": "feddf", "privacy": {"robust": {"kind": "median"}}}, "treats clients by name"),
        ({"method": "feda2-lora"}, "is not for clients with models of their own"),
        ({"method": "centralised"}, "is not for clients with models of their own"),
        (
            {"data": {"source": "tabletop"}},
            "is for clients with models of their own; set data.source: labelled",
        ),
    ],
)
def test_what_cannot_go_together_is_told_in_one_sentence(change, sentence, quick) -> None:
    from fedloom.experiment.settings import Experiment

    fields = {**quick("fedmmkt").as_dict(), **change}
    with pytest.raises(ExperimentError, match=sentence):
        Experiment.parse(fields)


def test_users_mistakes_about_clients_are_told_before_training(quick, federate) -> None:
    experiment = quick("fedmmkt")

    def with_data(**data: Any) -> Any:
        return experiment.model_copy(update={"data": experiment.data.model_copy(update=data)})

    for broken, sentence in [
        (with_data(train=900), "need 2736 pictures, and there are 1797"),
        (with_data(clients={"both": 2}), "has no clients that hold both"),
        (with_data(dataset="imagenet"), "knows handwriting and tabletop"),
    ]:
        with pytest.raises(ExperimentError, match=sentence):
            federate(broken)
    model = experiment.model.model_copy(
        update={"architectures": {"image": ("tiny-bert",), "text": ("tiny-bert",)}}
    )
    with pytest.raises(ExperimentError, match="names tiny-bert for more than one modality"):
        federate(experiment.model_copy(update={"model": model}))
    model = experiment.model.model_copy(
        update={"architectures": {"image": ("tiny-bert",), "text": ("tiny-distilbert",)}}
    )
    with pytest.raises(ExperimentError, match="tiny-bert is for clients that hold text, not image"):
        federate(experiment.model_copy(update={"model": model}))
