"""Image classification between sites, on other partitions than few shots: the local engine's bits and metrics."""

import pytest
import torch

from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.experiment.build import build
from fedloom.tasks.class_figures import ClassFigures
from tests.deploy.silos import Silos

LABELDIR = {"kind": "labeldir", "beta": 1.0, "least": 2}
DOMAINS = {"kind": "domains", "beta": 5.0, "hold_out": "sketch"}


def pictures(clients: int, partition: dict) -> dict:
    return {
        "source": "classes",
        "dataset": "tabletop",
        "styles": ["dusk", "fog", "sketch"],
        "train": 3,
        "test": 3,
        "clients": {"image": clients},
        "partition": partition,
    }


@pytest.mark.parametrize(
    ("method", "clients", "partition", "some"),
    [
        (
            "pfedmma",
            4,
            DOMAINS,
            {"domain/dusk/accuracy_sd", "held_out/image/accuracy", "domain/sketch/accuracy_sd"},
        ),
        ("promptfl", 2, LABELDIR, {"local/image/accuracy_own_classes", "local/worst_client/image/accuracy"}),
    ],
)
def test_sites_end_in_the_local_engines_bits_and_metrics(
    method, clients, partition, some, quick, tmp_path, monkeypatch
) -> None:
    usual = quick(method, engine={"cohort": "off"}, training={"steps": 2})
    fields = usual.as_dict() | {"data": pictures(clients, partition)}
    experiment = type(usual).parse(fields)
    local = build(experiment, None, lambda progress: None)
    local.run()
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    names = tuple(local.names)
    far = go_on(experiment, names, tmp_path / "far", Silos(experiment, names, tmp_path / "sites"))
    assert all(torch.equal(t, local.state.shared[n]) for n, t in far.state.shared.items())
    there = {n: v for n, v in far.last_metrics.items() if n != "evaluated_sites"}
    assert there.keys() == local.last_metrics.keys() >= some
    assert there == pytest.approx(dict(local.last_metrics), abs=1e-12)
    assert far.client_metrics == local.client_metrics


RULES = ClassFigures(("base", "novel"))
SOUND = {"local/image/accuracy": 0.5, "base/image/accuracy": 0.25, "novel/image/accuracy": 0.75}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("local/image/accuracy", 0, 1),
        ("domain/x y/accuracy", 0, 1),
        ("local/image/accuracy_own_classes", 0, 1),
    ],
)
def test_an_accuracy_has_its_range(name, low, high) -> None:
    known = RULES.range_of(name)
    assert (known.low, known.high) == (low, high)


@pytest.mark.parametrize(
    "name",
    [
        "hm",
        "local/worst_client/image/accuracy",
        "global/image/loss",
        "domain/a/b/accuracy",
        "domain/\x1b/accuracy",
    ],
)
def test_other_names_are_no_figures(name) -> None:
    assert RULES.range_of(name) is None


def test_a_site_without_a_common_set_does_not_count_in_its_mean() -> None:
    without = {"local/image/accuracy": 1.0}
    metrics = RULES.combined(
        {"a": SOUND, "b": without}, {"base/image/accuracy": 0.9, "novel/image/accuracy": 0.9}
    )
    assert metrics["local/image/accuracy"] == 0.75
    assert metrics["base/image/accuracy"] == 0.25
    assert metrics["hm2"] == pytest.approx(2 / (4 + 4 / 3))


def test_a_site_that_sends_no_local_accuracy_counts_nowhere() -> None:
    assert RULES.combined({"a": {"base/image/accuracy": 1.0}}, {}) == {}
    assert RULES.row({"base/image/accuracy": 1.0}) == {}
