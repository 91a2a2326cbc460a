"""Every row at a toy size: both sides do the same work. Nothing here looks at the time that it took."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import (
    aggregation,
    canonical,
    cohort,
    features,
    flower,
    nvflare_simulator,
    pfl_research,
    scaling,
)
from benchmarks.__main__ import PLOTS, ROWS
from benchmarks.plain import Plain, average, difference, flat, restore, travelling, unflat
from benchmarks.report import Row, interleaved, surroundings, table

AGREE = 1e-5


@pytest.mark.parametrize("name", [*ROWS, *PLOTS])
def test_every_registered_row_can_be_called(name):
    assert callable(import_module(f"benchmarks.{name}").main)


def test_repetitions_take_turns_and_the_first_is_not_counted():
    order = []
    ours, rival = interleaved(lambda: order.append("A"), lambda: order.append("B"), 2)
    assert "".join(order) == "ABABAB"
    assert (len(ours), len(rival)) == (2, 2)


def test_a_row_tells_the_ratio_of_medians_and_its_spread():
    row = Row("x", "work", "another", "2", [1.0, 2.0, 4.0], [6.0, 6.0, 4.0], 1e-7)
    assert row.ratio == 3.0
    assert row.spread == (1.0, 6.0)
    assert "| x: work | another | 3.00 | 1.00 to 6.00 | 4.00 | 2 | 1.0e-07 |" in table([row])


def test_a_row_that_could_not_run_stays_in_the_table():
    assert "| not measured |" in table([Row("x", "work", "another", "2")])


def test_figures_come_with_machine_versions_and_commit():
    assert all(
        word in surroundings() for word in ("cores", "GiB", "python", "torch", "peft", "fedloom", "commit")
    )


def test_aggregation_gives_what_the_dense_formula_gives():
    rows = aggregation.measure(d=48, r=4, K=3, matrices=2, repetitions=1)
    assert rows[0].difference < AGREE
    assert all(row.ratio > 0 for row in rows)


def test_the_canonical_step_gives_the_mean_without_its_switches():
    rows = canonical.measure(3, 4, exact=True, shapes=((24, 17),))
    assert [row.name for row in rows] == ["canonical weight", "canonical update", "canonical exact"]
    assert all(row.difference < AGREE for row in rows[:2])


@pytest.mark.parametrize("kind", cohort.KINDS)
def test_a_round_gives_what_the_plain_peft_loop_gives(kind):
    rows = cohort.measure(kind, clients=3, batch=2, repetitions=1)
    assert [len(row.ours) for row in rows] == [len(row.of_rival) for row in rows] == [1, 1]
    assert all(row.difference < 1e-10 for row in rows)


def test_the_plain_loop_trains_every_part_and_the_difference_shows():
    chosen = cohort.experiment("whole", 1, 2, 1)
    plain, (source,) = Plain(chosen, ["image"]), chosen.data.load(0)
    start, examples = plain.read(), [plain.mllm.prepare(sample) for sample in source.train]
    trained = plain.train(start, examples, ["image"], source.name, 1)
    parts = {(n.split("/")[0], n.split(".")[-2][-6:]) for n in trained if "lora_" in n}
    assert parts == {(g, f) for g in ("llm", "encoder.image") for f in ("lora_A", "lora_B")}
    still = {n for n in trained if torch.equal(trained[n], start[n])}
    assert all("encoder" in n and "lora_A" in n for n in still)  # one step, and with B = 0 it cannot move A
    before = {n: start[n] for n in trained}
    assert difference(travelling(before), before) == 0
    assert difference(travelling(before), trained) > 1e-4
    with pytest.raises(KeyError, match="names"):
        difference(travelling(before), start | {"llm/more": torch.zeros(1)})


def test_the_plain_mean_is_over_those_who_sent_a_tensor():
    one, two = {"a": torch.tensor([1.0]), "b": torch.tensor([4.0])}, {"a": torch.tensor([3.0])}
    assert {n: float(t) for n, t in average([one, two]).items()} == {"a": 2.0, "b": 4.0}


def test_restoring_keeps_the_product_of_equal_clients():
    pair = {"llm/x.lora_A.weight": torch.randn(2, 6), "llm/x.lora_B.weight": torch.randn(5, 2)}
    found = restore([pair, pair])
    assert all(torch.allclose(found[n], pair[n], atol=1e-5) for n in pair)


def test_flat_vectors_go_back_into_their_shapes():
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.arange(2.0)}
    assert all(torch.equal(t, tensors[n]) for n, t in unflat(flat(tensors), tensors).items())


@pytest.mark.parametrize("module", [flower, pfl_research, nvflare_simulator])
def test_a_rival_that_is_not_installed_is_told(module, monkeypatch):
    monkeypatch.setattr(f"{module.__name__}.importlib.util.find_spec", lambda name: None)
    (row,) = module.measure(2, 2)
    assert row.ratio is None
    assert "not installed" in row.note


@pytest.mark.slow
def test_flower_gives_the_same_adapters():
    pytest.importorskip("ray")
    pytest.importorskip("flwr")
    (row,) = flower.measure(2, 2, repetitions=1)
    assert row.difference < AGREE


@pytest.mark.slow
def test_pfl_gives_the_same_adapters():
    pytest.importorskip("pfl")
    (row,) = pfl_research.measure(3, 2, "stage2", repetitions=1)
    assert row.difference < AGREE


@pytest.mark.slow
def test_nvflare_gives_the_same_adapters():
    pytest.importorskip("nvflare")
    (row,) = nvflare_simulator.measure(2, 2, "text", repetitions=1)
    assert row.difference < AGREE


def test_scaling_draws_every_axis(tmp_path: Path):
    points = {axis: {v: {"seconds": v / 10, "peak": v * 1e6} for v in (1, 2)} for axis in scaling.AXES}
    scaling.draw(points, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert all(name in text for name in (*scaling.STEM.values(), "s per round", "peak MB"))


def test_another_width_is_a_foundation_that_trains():
    told = scaling.point(clients=1, rank=2, width=32, repetitions=1)
    assert told["seconds"] > 0
    assert told["peak"] > 0


def test_the_second_epoch_of_a_frozen_encoder_makes_no_features():
    row = features.measure("LLM only, toy", {}, clients=1, samples=4, repetitions=1)
    assert row.difference == 0
    assert len(row.ours) == len(row.of_rival) == 1
