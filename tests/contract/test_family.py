"""What single methods of the LoRA family promise beyond the contract matrix, on the shipped foundation."""

from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.experiment.settings import Experiment
from fedloom.methods import METHODS

pytestmark = pytest.mark.identities

IMAGES = {"clients": {"image": 3}, "train": 12, "test": 2}


def listen(federation) -> list[dict[str, Any]]:
    """Every reply of the federation's clients, round by round, with what was sent down."""
    rounds: list[dict[str, Any]] = []
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        while len(rounds) < at.number:
            rounds.append({})
        reply = original(client, method, task, payload, at)
        rounds[at.number - 1][client.name] = (payload, reply)
        return reply

    federation.engine._ask_one = spy
    return rounds


def weights_of(model, tensors) -> dict[str, torch.Tensor]:
    """Every adapted layer's effective weight W0 + s (merged) + s B A, in float64."""
    model.load(tensors)
    found = {}
    for place, layer in model.layers.items():
        s = model.scales[group_of(place)]
        B, A = model.tensors[f"{place}.lora_B"], model.tensors[f"{place}.lora_A"]
        found[place] = (layer.get_base_layer().weight.double() + s * B.double() @ A.double()).detach()
    model.load({})
    return found


def change(model, one, two) -> dict[str, torch.Tensor]:
    before, after = weights_of(model, one), weights_of(model, two)
    return {place: after[place] - before[place] for place in before}


@pytest.mark.parametrize("method", ["fedex-lora", "flora"])
def test_exact_methods_move_the_model_by_the_mean_of_the_clients_updates(method, quick, federate) -> None:
    federation = federate(quick(method, data=IMAGES))
    rounds = listen(federation)
    model = federation.engine.model
    start = dict(federation.global_model())
    states = [start]
    federation.observe = lambda told: (
        states.append(dict(federation.global_model())) if told.round and told.client is None else None
    )
    federation.run()
    for number, replies in enumerate(rounds):
        moved = weights_of(model, states[number + 1])
        for place, weight in weights_of(model, states[number]).items():
            s = model.scales[group_of(place)]
            pairs = [
                (r.payload.tensors[f"{place}.lora_B"].double(), r.payload.tensors[f"{place}.lora_A"].double())
                for _, r in replies.values()
            ]
            base = weight if method == "flora" else weight - s * _product(states[number], place)
            wanted = base + s * sum(B @ A for B, A in pairs) / len(pairs)
            assert float((moved[place] - wanted).norm() / wanted.norm()) < 1e-5


def _product(tensors, place) -> torch.Tensor:
    return tensors[f"{place}.lora_B"].double() @ tensors[f"{place}.lora_A"].double()


@pytest.mark.parametrize("method", ["fedex-lora", "flora"])
def test_30_a_client_that_was_away_has_the_same_base_when_it_is_back(method, quick, federate) -> None:
    federation = federate(quick(method, data=IMAGES, rounds=4, cohort={"fraction": 0.5}))
    rounds = listen(federation)
    bases: list[dict[str, torch.Tensor]] = []

    def told(progress) -> None:
        if progress.round and progress.client is None:
            bases.append(dict(federation.state.tensors))

    federation.observe = told
    federation.run()
    assert len({tuple(sorted(r)) for r in rounds}) > 1  # not the same cohort every time
    for client in federation.clients.values():
        last = max((i for i, r in enumerate(rounds) if client.name in r), default=-1)
        known = bases[last - 1] if last > 0 else {}
        own = {n: t for n, t in client.personal.items() if ".merged_" in n}
        assert own.keys() == known.keys()
        assert all(torch.equal(own[n], known[n]) for n in own)


def test_a_refused_client_is_sent_the_change_of_the_base_again(quick, federate) -> None:
    federation = federate(quick("fedex-lora", data=IMAGES, rounds=3))
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        reply = original(client, method, task, payload, at)
        if client.name == "image-02" and at.number == 2:
            return type(reply)(client.name, error="lost on the way")
        return reply

    federation.engine._ask_one = spy
    federation.run()
    one, two = (federation.clients[f"image-0{i}"].personal for i in (1, 2))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_ffa_never_sends_nor_moves_a(quick, federate) -> None:
    federation = federate(quick("ffa-lora", data=IMAGES))
    rounds = listen(federation)
    federation.run()
    names = {n for r in rounds for down, up in r.values() for n in (*down.tensors, *up.payload.tensors)}
    assert any(n.endswith("lora_B") for n in names)
    assert not any(n.endswith("lora_A") for n in names)
    model = federation.engine.model
    model.load(federation.global_model())
    assert all(torch.equal(p, model.start[n]) for n, p in model.tensors.items() if n.endswith("lora_A"))


def test_rolora_trains_and_sends_one_half_a_round_and_is_exact(quick, federate) -> None:
    federation = federate(quick("rolora", data=IMAGES))
    rounds = listen(federation)
    errors = []
    federation.observe = lambda told: errors.append(told.metrics.get("restoration_error"))
    federation.run()
    for replies, half in zip(rounds, ("lora_B", "lora_A"), strict=True):
        for _, reply in replies.values():
            assert {n.rsplit(".", 1)[-1] for n in reply.payload.tensors if "lora_" in n} == {half}
    assert all(e < 1e-5 for e in errors if e is not None)


def test_25_a_personal_b_depends_on_its_own_client_only(quick, federate) -> None:
    """Client order is in the contract matrix; here another client's data change, and B of round 1 does not."""
    one = federate(quick("fedsa-lora", rounds=1, data=IMAGES))
    two = federate(quick("fedsa-lora", rounds=1, data=IMAGES))
    other = two.clients["image-02"]
    other.data = one.clients["image-03"].data
    other.data = type(other.data)("image-02", other.data.train, other.data.test)
    one.run()
    two.run()
    mine = [c.clients["image-01"].personal for c in (one, two)]
    assert all(n.endswith("lora_B") for n in mine[0])
    assert all(torch.equal(mine[0][n], mine[1][n]) for n in mine[0])


def test_a_small_client_starts_from_the_strongest_directions(quick, federate) -> None:
    federation = federate(quick("fedavg-lora", data=IMAGES, cohort={"ranks": {"llm": [4, 2]}}))
    rounds = listen(federation)
    federation.run()
    down = rounds[1]["image-02"][0].tensors
    place = next(n[: -len("lora_A")] for n in down if n.startswith("llm") and n.endswith("lora_A"))
    full = rounds[1]["image-01"][0].tensors
    whole = full[place + "lora_B"].double() @ full[place + "lora_A"].double()
    small = down[place + "lora_B"].double() @ down[place + "lora_A"].double()
    best = torch.linalg.svdvals(whole)[2:].square().sum().sqrt()
    assert down[place + "lora_A"].shape[0] == 2
    assert float((whole - small).norm()) == pytest.approx(float(best), rel=1e-4, abs=1e-9)


TEXT = {"source": "text", "clients": {"text": 3}, "train": 8, "test": 2, "task": "entailment"}


def test_clients_of_a_text_classifier_may_have_unequal_ranks(quick, federate) -> None:
    ranks = {"ranks": {"body": [8, 2]}}
    federation = federate(quick("hetlora", data=TEXT, model={}, rounds=1, cohort=ranks))
    rounds = listen(federation)
    federation.run()
    sent = {name: reply.payload.tensors for name, (_, reply) in rounds[0].items()}
    ranks_sent = [
        next(t for n, t in sorted(tensors.items()) if n.endswith("lora_A")).shape[0]
        for _, tensors in sorted(sent.items())
    ]
    assert ranks_sent == [8, 2, 8]
    with pytest.raises(ExperimentError, match="llm has no LoRA rank; give ranks for body"):
        quick("hetlora", data=TEXT, model={}, cohort={"ranks": {"llm": [4, 2]}})


VERA = {
    "llm_lora": {"kind": "vera", "rank": 16},
    "encoder_lora": {"kind": "vera", "rank": 16},
}


@pytest.mark.parametrize(
    "method", ["fedavg-lora", "feda2-lora", "ffa-lora", "fedsa-lora", "rolora", "local-only", "centralised"]
)
def test_vera_sends_vectors_only_and_resumes_and_saves(method, quick, federate) -> None:
    federation = federate(quick(method, model=VERA, data=IMAGES), "vera")
    rounds = listen(federation)
    federation.run()
    sent = {n for r in rounds for down, up in r.values() for n in up.payload.tensors}
    assert all(n.endswith(("lambda_d", "lambda_b")) or n.startswith("projector") for n in sent)
    if method == "ffa-lora":
        assert not any(n.endswith("lambda_d") for n in sent)
    if method == "fedsa-lora":
        assert not any(n.endswith("lambda_b") for n in sent)
    model = federation.engine.model
    own = federation.client_model(federation.clients[sorted(federation.clients)[0]])
    model.load(own.tensors if own else federation.global_model())
    model.save_adapters(federation.folder.path / "model")
    again = type(model).read_adapters(federation.folder.path / "model")
    assert again.keys() == model.tensors.keys()
    assert all(torch.equal(again[n], p) for n, p in model.tensors.items())


def test_warm_start_runs_another_method_first(quick, federate) -> None:
    warm = {"name": "feda2-lora", "warm_start": {"method": "fedavg-lora", "rounds": 1}}
    runs = {}
    for name, method in {"warm": warm, "fedavg": "fedavg-lora", "feda2": "feda2-lora"}.items():
        federation = federate(quick(method, data=IMAGES, rounds=3))
        states = []
        federation.observe = lambda told, f=federation, s=states: (
            s.append(dict(f.state.shared)) if told.client is None else None
        )
        federation.run()
        runs[name] = states
    first = [
        all(torch.equal(runs["warm"][1][n], runs[m][1][n]) for n in runs[m][1]) for m in ("fedavg", "feda2")
    ]
    assert first == [True, False]
    assert not all(torch.equal(runs["warm"][2][n], runs["fedavg"][2][n]) for n in runs["warm"][2])


def test_the_warm_starts_method_has_the_runs_weights_head_and_personal_tensors(quick) -> None:
    own = {"weights": "examples", "head": "personal", "personal": ["encoder.*"]}
    warm = {"name": "feda2-lora", "warm_start": {"method": "fedavg-lora", "rounds": 1}, **own}
    experiment = Experiment.parse({"rounds": 2, "method": warm, "data": {"source": "text"}})
    first = experiment.method_in(1)
    assert (first.name, experiment.method_in(2).name) == ("fedavg-lora", "feda2-lora")
    assert (first.weights, first.head, first.personal) == ("examples", "personal", ("encoder.*",))
    assert first.scope == experiment.method.scope


def test_the_warm_starts_method_treats_unequal_ranks_as_the_run_does(quick) -> None:
    warm = {"name": "feda2-lora", "tail": "pad", "download": "index", "ridge": 0.5}
    warm["warm_start"] = {"method": "fedavg-lora", "rounds": 1}
    first = quick(warm, data=IMAGES, cohort={"ranks": {"llm": [4, 2]}}).method_in(1)
    assert (first.name, first.tail, first.download) == ("fedavg-lora", "pad", "index")


def test_a_round_without_quorum_measures_no_aggregation(quick, federate) -> None:
    federation = federate(quick(data=IMAGES, rounds=2, cohort={"quorum": 1.0}))
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        reply = original(client, method, task, payload, at)
        lost = client.name == "image-02" and at.number == 1
        return type(reply)(client.name, error="lost on the way") if lost else reply

    federation.engine._ask_one = spy
    seen = {}
    federation.observe = lambda told: seen.update({told.round: told.metrics}) if told.client is None else None
    federation.run()
    assert federation.totals.skipped_rounds == 1
    assert ("restoration_error" in seen[1], "restoration_error" in seen[2]) == (False, True)


@pytest.mark.parametrize("method", ["fedex-lora", "flora"])
def test_a_moved_base_in_rslora_scale_is_exported_with_the_same_logits(
    method, quick, federate, tmp_path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from fedloom.models.mllm.load import foundation_folder

    model = {"llm_lora": {"rank": 4, "rslora": True}, "encoder_lora": {"rank": 3, "rslora": True}}
    federation = federate(quick(method, data=IMAGES, model=model))
    federation.run()
    ours = federation.engine.model
    ours.load(federation.global_model())
    ours.save_adapters(tmp_path)
    ids = torch.tensor([[1, 5, 9, 20, 33]])
    folder = foundation_folder(federation.experiment.model.foundation) / "llm"
    with torch.no_grad():
        wanted = ours.mllm.llm(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        plain = base(input_ids=ids).logits
        exported = PeftModel.from_pretrained(base, tmp_path / "llm").eval()(input_ids=ids).logits
    torch.testing.assert_close(exported, wanted, rtol=1e-4, atol=1e-4)
    assert float((exported - plain).abs().max()) > 1e-3


def test_feddpa_weighs_an_answer_by_how_near_it_is_to_the_clients_prompts(quick, federate) -> None:
    federation = federate(quick("feddpa-lora", data=IMAGES))
    federation.run()
    client = federation.clients["image-01"]
    own = federation.client_model(client)
    assert own.tensors["anchors/prompts"].shape[0] == 5
    model = federation.engine.model
    model.load(own.tensors)
    examples = client.examples(model)[:4]
    seen = []
    original = model.mix_group

    def spy(group, local):
        seen.append(local)
        original(group, local)

    model.mix_group = spy
    model.score(examples)
    del model.mix_group
    weight = seen[0]
    assert weight.shape == (4, 1, 1)
    assert float(weight.min()) > 0
    assert float(weight.max()) <= 0.5 + 1e-6
    assert seen[-1] == 0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "ffa-lora", "cohort": {"start": "own"}}, "ffa-lora needs one A at every client"),
        *(
            ({"method": m, "cohort": {"start": "own"}}, f"method {m} needs one A at every client")
            for m in ("rolora", "fedsvd", "fedrot-lora", "fedadam", "fedavgm", "fdlora")
        ),
        (
            {"method": {"name": "fedavg-lora", "server": {"name": "adam"}}, "cohort": {"start": "own"}},
            "the step of method.server needs one A at every client",
        ),
        ({"method": {"name": "flora", "personal": ["*.lora_B"]}}, "flora needs both factors of every client"),
        ({"method": "feda2-lora", "model": VERA, "cohort": {"start": "own"}}, "must come from one seed"),
        ({"method": "fedex-lora", "model": VERA}, "fedex-lora is not defined for VeRA"),
        ({"method": {"name": "feddpa-lora"}, "model": VERA}, "method.variant: additive"),
        ({"method": "fedex-lora", "cohort": {"ranks": {"llm": [4, 2]}}}, "one rank and scale"),
        (
            {"method": "fedavg-lora", "cohort": {"ranks": {"llm": [9]}}},
            "rank 9 of llm is above the model's 4",
        ),
        ({"method": "fedavg-lora", "cohort": {"ranks": {"llm": [0]}}}, "cohort.ranks"),
        ({"method": {"name": "hetlora", "weights": "examples"}}, "by the size of their updates"),
        ({"method": "fedavg-lora", "model": {"llm_lora": {"rank": 0}}}, "model.llm_lora.rank"),
        (
            {"method": {"name": "fedsa-lora", "warm_start": {"method": "fedavg-lora", "rounds": 1}}},
            "do not share the same tensors",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_sentence(settings, sentence, quick) -> None:
    with pytest.raises(ExperimentError, match=sentence) as error:
        quick(**settings)
    assert str(error.value).count("\n") == 0


def test_a_rank_above_the_layers_size_is_refused_before_training(quick, federate) -> None:
    with pytest.raises(ExperimentError, match="rank 4096 is above the size"):
        federate(quick(model={"llm_lora": {"rank": 4096}}))


def test_every_method_names_its_paper_and_title() -> None:
    assert all(m.title and m.paper and m.__doc__ for m in METHODS.values())
    assert {m for m in METHODS if METHODS[m].second} == {"feddpa-lora", "fdlora"}
