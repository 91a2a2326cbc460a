"""Federated pre-training of the projector: one pass, one schedule, frozen parts, bytes, and the methods on it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedloom.cli.cost import PRESETS
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, group_of
from fedloom.experiment.build import build
from fedloom.experiment.run import run
from fedloom.methods import METHODS
from fedloom.models.training.loop import LocalJob
from fedloom.models.training.settings import Training, part_of_round, proximal

DATA = {"source": "captions", "clients": {"image": 3}, "train": 8, "test": 2}
MODEL = {"llm_lora": None, "encoder_lora": None, "projector": "mlp2x"}
TRAINING = {
    "schedule": "simultaneous",
    "one_pass": True,
    "batch_size": 2,
    "lr": 0.01,
    "lr_schedule": "run_cosine",
}
EVALUATION = {"generate": False, "controls": False, "samples": 0, "loss": True, "updates": True}
TASK: dict[str, Any] = {"data": DATA, "model": MODEL, "training": TRAINING, "evaluation": EVALUATION}
CMP = {"name": "fedcmp", "rank": 40}


def doubled(federation: Any) -> Any:
    """The same federation in float64."""
    model = federation.engine.model
    model.root.double()
    model.start = {n: t.double() for n, t in model.start.items()}
    return replace(federation)


def test_14_one_pass_uses_every_sample_once() -> None:
    settings = Training(one_pass=True)
    for n, rounds in ((23, 5), (7, 7), (20, 1)):
        parts = [part_of_round(n, settings, 3, "c", t, rounds) for t in range(1, rounds + 1)]
        assert sorted(i for part in parts for i in part) == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part_of_round(5, Training(), 3, "c", 2, 4) == list(range(5))
    assert part_of_round(40, settings, 3, "c", 1, 2) != part_of_round(40, settings, 3, "d", 1, 2)


def test_17_clients_with_different_numbers_of_steps_stay_in_phase() -> None:
    settings = Training(lr=0.1, lr_schedule="run_cosine", warmup=0.1)
    few, many = ([settings.rate(3, 8, j, J) for j in range(J + 1)] for J in (4, 10))
    assert few[0] == many[0]
    assert few[2] == pytest.approx(many[5])
    assert few[-1] == pytest.approx(many[-1]) == pytest.approx(settings.rate(4, 8, 0, 7))
    assert settings.rate(1, 8, 0, 4) == 0.0
    assert settings.rate(1, 10, 5, 10) == pytest.approx(0.05)
    assert settings.rate(2, 10, 0, 10) == pytest.approx(0.1)
    assert settings.rate(8, 8, 7, 8) < 0.001
    assert max(settings.rate(t, 8, j, 8) for t in range(1, 9) for j in range(8)) <= 0.1


def job(n: int, **settings: Any) -> LocalJob:
    training = Training(**settings)
    return LocalJob("c", list(range(n)), {}, frozenset(), training, 0, 2, 3, {})


def test_a_job_of_one_pass_trains_on_its_part_only() -> None:
    part_job = job(14, one_pass=True, batch_size=2)
    seen = [i for batch in part_job.batches() for i in batch]
    assert sorted(seen) == sorted(part_job.chosen)
    assert len(seen) == 5
    assert part_job.steps == 3


def test_15_and_16_only_the_projector_travels_and_trains(quick, federate) -> None:
    federation = federate(quick("fedcmp", **TASK), "run")
    model = federation.engine.model
    assert set(model.tensors) == {f"projector/{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    frozen = {n: t.clone() for n, t in model.mllm.state_dict().items() if not n.startswith("projector")}
    start = dict(model.start)
    federation.run()
    for name, tensor in model.mllm.state_dict().items():
        assert name.startswith("projector") or torch.equal(tensor, frozen[name])
    assert all(not torch.equal(t, start[n]) for n, t in federation.state.shared.items())
    each = sum(t.numel() * 4 for t in start.values())
    assert federation.totals.bytes_up == federation.totals.bytes_down == each * 3 * 2
    for line in federation.folder.history("ledger.jsonl"):
        assert set(line["groups_up"]) == set(line["groups_down"]) == {"projector"}


@pytest.mark.parametrize(
    "method",
    [
        {**CMP, "momentum": "heavyball"},
        {"name": "fedavg", "server": {"name": "adam", "lr": 0.01}},
        {"name": "fedavg", "server": {"name": "avgm"}},
    ],
    ids=["heavyball", "adam", "avgm"],
)
def test_16_a_run_cut_in_the_middle_ends_in_the_same_bits(method, quick, tmp_path) -> None:
    class Killed(BaseException):
        pass

    def stop(progress: Any) -> None:
        if progress.round == 2 and progress.client is None:
            raise Killed

    experiment = quick(method, **{**TASK, "rounds": 4, "data": {**DATA, "train": 8}})
    whole = build(experiment, None, lambda p: None)
    whole.run()
    with pytest.raises(Killed):
        run(experiment, tmp_path / "cut", observe=stop)
    from fedloom.federation.run_folder import RunFolder

    again = build(experiment, RunFolder(tmp_path / "cut"), lambda p: None)
    again.resume(RunFolder(tmp_path / "cut").last())
    again.run()
    assert again.state.shared.keys() == whole.state.shared.keys()
    for part in ("shared", "tensors"):
        one, two = getattr(whole.state, part), getattr(again.state, part)
        assert one.keys() == two.keys()
        assert all(torch.equal(t, two[n]) for n, t in one.items())
    assert {n: v for n, v in again.last_metrics.items() if n.startswith("update/")} == {
        n: v for n, v in whole.last_metrics.items() if n.startswith("update/")
    }
    assert "update/turn" in whole.last_metrics


@pytest.mark.parametrize("method", [CMP, "fedprox", "scaffold"], ids=["fedcmp", "fedprox", "scaffold"])
@pytest.mark.parametrize("quantity", [None, 0.4])
def test_a_cohort_trains_the_two_layer_projector_as_one_client_after_another(
    method, quantity, quick, federate
) -> None:
    """float64; with unequal sizes clients have different rates at the same step."""
    data = {**DATA, "captions": {"quantity": quantity, "least": 2}}
    outcomes = []
    for cohort in ("off", 3):
        federation = doubled(federate(quick(method, **{**TASK, "data": data, "engine": {"cohort": cohort}})))
        federation.run()
        outcomes.append(federation.state.shared)
        sizes = {len(c.data.train) for c in federation.clients.values()}
        assert (len(sizes) > 1) == (quantity is not None)
    for name, tensor in outcomes[0].items():
        torch.testing.assert_close(tensor, outcomes[1][name], rtol=1e-10, atol=1e-10, msg=name)


def test_fedcmp_without_both_parts_is_fedavg(quick, federate) -> None:
    ends = []
    for method in ("fedavg", {**CMP, "beta": 0, "gamma": 0}, CMP):
        federation = federate(quick(method, **{**TASK, "rounds": 1}))
        federation.run()
        ends.append(federation.state.shared)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-6, atol=1e-6)
    assert any(float((t - ends[2][n]).abs().max()) > 1e-4 for n, t in ends[0].items())


def test_20_one_client_federated_is_centralised(quick, federate) -> None:
    ends = []
    for method in ("centralised", "fedavg"):
        data = {**DATA, "clients": {"image": 1}}
        whole = {**TRAINING, "batch_size": 8, "warmup": 0.0}  # the order goes by the client's name: one batch
        federation = doubled(
            federate(quick(method, **{**TASK, "rounds": 1, "data": data, "training": whole}))
        )
        federation.run()
        ends.append(federation.state.shared)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-10, atol=1e-10)


def test_fedcmp_tells_whom_it_trusted(quick, federate) -> None:
    federation = federate(quick(CMP, **TASK))
    federation.run()
    metrics = federation.last_metrics
    assert metrics["canonical/projector/0.weight/rank"] == 40
    assert 0 < metrics["canonical/projector/0.weight/energy"] <= 1
    rows = [
        [v for n, v in metrics.items() if n.startswith(f"reliability/projector/2.weight/image-0{k}/")]
        for k in (1, 2, 3)
    ]
    assert all(len(row) == 16 for row in rows)
    assert [sum(c) / 3 for c in zip(*rows, strict=True)] == pytest.approx([1.0] * 16, abs=1e-4)
    assert -1 <= metrics["update/cosine"] <= 1
    assert metrics["global/image/loss"] > 0
    assert metrics["worst_client/image/loss"] >= metrics["global/image/loss"]


def test_scaffold_sends_twice_as_much_and_its_variates_are_no_model(quick, federate) -> None:
    one, two = (federate(quick(m, **TASK)) for m in ("fedavg", "scaffold"))
    one.run()
    two.run()
    assert two.totals.bytes_up == 2 * one.totals.bytes_up
    assert two.totals.bytes_down == 2 * one.totals.bytes_down
    assert two.global_model().keys() == one.global_model().keys()
    c = two.state.shared["projector/0.weight.control"]
    own = torch.stack([k.personal["projector/0.weight.own_control"] for k in two.clients.values()])
    assert float(c.abs().max()) > 0
    torch.testing.assert_close(c, own.mean(0), rtol=1e-4, atol=1e-7)


def test_the_mean_gradient_is_that_of_the_batches(quick, federate) -> None:
    """One step at rate 0 (warm-up): the gradient that SCAFFOLD gets is the loss's own at the model that was sent."""
    federation = federate(quick("fedavg", **{**TASK, "training": {**TRAINING, "batch_size": 4}}))
    client, model = federation.clients["image-01"], federation.engine.model
    model.root.double()
    start = {n: t.double() for n, t in federation.state.shared.items()}
    from fedloom.models.training.loop import train_one

    job_ = LocalJob(
        client="image-01",
        examples=client.examples(model),
        start=start,
        names=frozenset(model.tensors),
        training=federation.experiment.training,
        seed=0,
        round=1,
        rounds=2,
        ratios={},
        gradients=True,
    )
    outcome = train_one(model, job_)
    model.load(start)
    parameters = model.begin(job_.names)
    loss = model.loss([job_.examples[i] for i in next(job_.batches())])
    expected = torch.autograd.grad(loss, parameters)
    for name, gradient in zip(sorted(job_.names), expected, strict=True):
        torch.testing.assert_close(outcome.gradients[name], gradient, rtol=1e-10, atol=1e-12)
    model.rest()


def test_the_proximal_term_by_hand() -> None:
    at = {"a": torch.zeros(2), "b": torch.ones(1)}
    assert float(proximal(0.5, at)({"a": torch.tensor([1.0, 2.0]), "c": torch.ones(3)})) == 1.25
    assert float(proximal(0.5, at)({"c": torch.ones(3)})) == 0.0


def test_the_generic_server_step_is_fedavgm(quick, federate) -> None:
    ends = []
    for method in ("fedavgm", {"name": "fedavg", "server": {"name": "avgm", "beta": 0.9}}):
        federation = federate(quick(method, **TASK))
        federation.run()
        ends.append(federation.state)
    assert all(torch.equal(t, ends[1].shared[n]) for n, t in ends[0].shared.items())
    assert ends[0].tensors.keys() == ends[1].tensors.keys()


@pytest.mark.parametrize(
    ("preset", "numbers"), [("llava-projector-linear", 4_198_400), ("llava-projector", 20_979_712)]
)
def test_15_bytes_of_the_full_size_projectors(preset, numbers) -> None:
    sizes = PRESETS[preset]()
    assert sum(s.numel() for s in sizes.values()) == numbers
    assert {group_of(n) for n in sizes} == {"projector"}
    payload = Payload({n: torch.empty(s, device="meta") for n, s in sizes.items()})
    assert payload.nbytes == 4 * numbers


def test_18_visual_positions_have_no_label_and_nothing_else_stands_in_a_bare_prompt(quick, federate) -> None:
    federation = federate(quick("fedavg", **{**TASK, "model": {**MODEL, "prompt": "bare", "tokens": 4}}))
    mllm = federation.engine.model.mllm
    example = federation.clients["image-01"].examples(federation.engine.model)[0]
    assert example.pieces.prompt == ((mllm.tokenizer.bos_token_id,), "image")
    out = mllm([example])
    assert len(out.labels) == len(example.pieces.answer)
    assert mllm.features([example])[0]["image"].shape[0] == 4
    assert isinstance(mllm.projector, nn.Sequential)
    federation.run()


def test_a_client_with_fewer_samples_than_rounds_is_told_so(quick) -> None:
    with pytest.raises(ExperimentError, match="8 training samples for 9 rounds of one pass"):
        build(quick("fedavg", **{**TASK, "rounds": 9}), None, lambda p: None)


def test_a_pretrained_projector_starts_the_next_run(quick, federate, tmp_path) -> None:
    first = run(quick("fedavg", **TASK), tmp_path / "first")
    again = {"projector": "mlp2x", "projector_from": tmp_path / "first"}
    tuned = federate(quick("feda2-lora", model=again, rounds=1))
    from safetensors.torch import load_file

    saved = load_file(first.folder / "model" / "projector.safetensors")
    assert all(torch.equal(tuned.engine.model.start[n], t) for n, t in saved.items())
    with pytest.raises(ExperimentError, match=r"has no weight for this model's projector"):
        federate(quick("feda2-lora", model={**again, "projector": "own"}))
    with pytest.raises(ExperimentError, match="name the folder of a run that has ended"):
        federate(quick("feda2-lora", model={**again, "projector_from": tmp_path}))
    from fedloom.experiment.finished_run import load

    model = load(tmp_path / "first")
    assert set(model.tensors) == set(saved)


def test_the_example_in_contributing_is_the_method_that_ships() -> None:
    text = Path("CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert block == Path("src/fedloom/methods/fedavgm.py").read_text(encoding="utf-8")
    assert "fedavgm" in METHODS
