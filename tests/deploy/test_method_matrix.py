"""Every method between sites, over a Grid in this process: refused with a reason, or the local engine's bits and metrics."""

import re
from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import check_deployable
from fedloom.federation.loop import Federation
from fedloom.methods import METHODS
from tests.deploy.silos import Silos

pytest.importorskip("fedloom.deploy.flower_server", reason="Flower is not installed")

from tests.deploy.hand_grid import between

REFUSED = dict.fromkeys(("centralised", "mma"), "pools all clients' data")
"""The methods that cannot be deployed, and a part of the reason."""
PER_SITE = re.compile(
    r"(global|local)/[a-z+]+/(token_accuracy_sample_median|macro_f1|bleu)|client/.+/accuracy|spread/.+"
)
"""Metrics of all samples that do not follow from the sites' own, and of one client's model on several clients' samples."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_is_refused_with_a_reason_or_gives_the_local_engines_bits(
    method, quick, federate, tmp_path, monkeypatch
) -> None:
    data = {"clients": {"image": 1, "both": 1}, "train": 6, "test": 2}
    experiment = quick(method, rounds=2, engine={"cohort": "off"}, data=data)
    if reason := REFUSED.get(method):
        with pytest.raises(ExperimentError, match=reason):
            check_deployable(experiment)
        return
    if experiment.method.public_items:  # the generator's figures cost seconds; see test_own_models.py
        monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)
    local = federate(experiment)
    local.run()
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    silos = Silos(experiment, tuple(local.names), tmp_path / "sites")
    with between(silos, tmp_path) as carrier:
        far: Any = go_on(experiment, silos.names, tmp_path / "far", carrier)
    assert far.status() == local.status() == "complete"
    same(far.state.shared, local.state.shared)
    same(far.state.tensors, local.state.tensors)
    for name in silos.names:
        same(personal_at(silos, name), local.clients[name].personal)
    same_metrics(far, local)
    assert far.client_metrics == local.client_metrics


def personal_at(silos: Silos, name: str) -> dict[str, torch.Tensor]:
    """A site's personal tensors after the last round."""
    trainer = silos.trainer(name)
    [run] = (trainer.folder / "runs").iterdir()
    state = trainer._state(run.name)
    state.look_at(2)
    trainer.client.states = state
    return dict(trainer.client.personal)


def same(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def same_metrics(far: Federation, local: Federation) -> None:
    there = {n: v for n, v in far.last_metrics.items() if n != "evaluated_sites"}
    left = {n for n in local.last_metrics if PER_SITE.fullmatch(n)}
    if not local.global_model():  # each personal model on everybody's samples: no site has these
        left |= {n for n in local.last_metrics if n.startswith("global/")}
    assert local.last_metrics.keys() - left <= there.keys() <= local.last_metrics.keys()
    for name, value in there.items():
        assert value == pytest.approx(local.last_metrics[name], abs=1e-12), name
