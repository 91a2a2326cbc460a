"""Every method that can be deployed bears a site that leaves and comes back, also when the server is killed meanwhile."""

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch

from fedloom.deploy import server
from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.server import go_on
from fedloom.deploy.wire import Request
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import METHODS
from tests.deploy.silos import Killed, Silos
from tests.deploy.test_method_matrix import REFUSED

QUICK = ("flora", "pfedmoap", "scaffold")
"""Methods whose state names clients, or counts them; the sweep over the others is left out of the usual run."""
METHODS_OF_SITES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.deploy)
    for name in sorted(set(METHODS) - set(REFUSED))
]


@pytest.mark.parametrize("method", METHODS_OF_SITES)
def test_a_site_leaves_before_round_2_and_comes_back_before_round_3(
    method, quick, tmp_path, monkeypatch
) -> None:
    data = {"clients": {"image": 2, "both": 1}, "train": 4, "test": 1}
    evaluation: Any = {"generate": False, "controls": False, "samples": 0, "every": 4}
    rules = {"norm_ratio": 1e9}  # few samples: a rank that HetLoRA cuts off changes far more than the median
    experiment = quick(
        method, rounds=4, engine={"cohort": "off"}, data=data, evaluation=evaluation, firewall=rules
    )
    if experiment.method.public_items:
        monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    names = tuple(sorted(c.name for c in experiment.data.load(experiment.seed)))
    silos, kills, at = Silos(experiment, names, tmp_path / "sites"), [2, 3], [0]

    def between(site: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        request = Request.decode(question)
        at[0] = max(at[0], request.round)
        yield site, silos.trainer(site).answer(question)
        if kills and request.round == kills[0]:
            kills.pop(0)
            raise Killed

    def wanted(known: Collection[str]) -> list[str]:
        last = folder.last()
        number = 1 if last is None else last.round + 1
        return [n for n in names if not (number == 2 and n == names[1])]

    folder = RunFolder(tmp_path / "far")

    def once(path: Any) -> Any:
        return go_on(experiment, names, path, silos, wanted=wanted)

    whole = once(tmp_path / "far")
    silos.between = between
    folder = RunFolder(tmp_path / "killed")
    for _ in range(2):
        with pytest.raises(Killed):
            once(tmp_path / "killed")
    again = once(tmp_path / "killed")
    trained = [(e["round"], e["answered"]) for e in folder.history("ledger.jsonl") if "groups_up" in e]
    assert {n for r, sites in trained if r == 2 for n in sites} == set(names) - {names[1]}
    assert whole.status() == again.status() == "complete"
    assert whole.state.shared.keys() == again.state.shared.keys()
    for name, tensor in whole.state.shared.items():
        assert torch.equal(tensor, again.state.shared[name]), name
    for name, tensor in whole.state.tensors.items():
        assert torch.equal(tensor, again.state.tensors[name]), name
    told = [e["refused"] for e in folder.history("ledger.jsonl") if e["request"] == "members"]
    assert told[0] == {}
    if again.engine.model.one_model:
        assert {n for r, sites in trained if r == 4 for n in sites} == set(names)
    else:
        assert "dealt by all sites' names" in told[-1][names[1]]
