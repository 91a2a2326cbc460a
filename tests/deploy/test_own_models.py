"""Clients with models of their own at sites: bits, bytes and figures of the local engine; a fault costs one site alone."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, group_of
from fedloom.core.shared_results import SharedResults
from fedloom.core.tensor_files import digest_of, read_checked
from fedloom.deploy import run_site, server
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Site, requests_of, write_settings
from fedloom.deploy.trainer import SiteTrainer, build_client
from fedloom.deploy.wire import Answer
from fedloom.experiment.build import build
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.settings import EngineSettings
from fedloom.tasks import generator_evaluation
from fedloom.tasks.generator_evaluation import GeneratorEvaluator
from tests.deploy.kills import MOMENTS, POINTS, kill_at, kill_trainer
from tests.deploy.silos import Killed, Silos, outcome, question_of, reboot

NAMES = ("image-01", "image-02", "text-01")
OFF = {"cohort": "off"}


def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures of the generator."""
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)


def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle of two steps and two pictures a class: its figures must be equal, not good."""
    original = GeneratorEvaluator.of
    oracle = partial(generator_evaluation.train_oracle, steps=2)
    monkeypatch.setattr(generator_evaluation, "train_oracle", oracle)
    monkeypatch.setattr(generator_evaluation, "_ORACLES", SharedResults(lambda oracle: 1))
    monkeypatch.setattr(GeneratorEvaluator, "of", lambda *told: replace(original(*told), each=2))


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report, which takes a second."""
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """The server's tensors at the end of a run, its own as `own:<name>`."""
    checkpoint = RunFolder(path).last()
    assert checkpoint is not None
    return {**checkpoint.state.shared, **{f"own:{n}": t for n, t in checkpoint.state.tensors.items()}}


def kept_by(folder: Path, site: str) -> bytes | None:
    """The digest of what a site keeps at the end of a run."""
    files = sorted((folder / site).glob("runs/*/personal/*.safetensors"))
    return digest_of(read_checked(files[-1])) if files else None


def ledger_of(path: Path) -> list[dict[str, Any]]:
    """What was asked for, who answered, and the bytes by group."""
    kept = ("round", "request", "asked", "answered", "refused", "groups_up", "groups_down", "notes")
    lines = RunFolder(path).history("ledger.jsonl")
    return [{n: e[n] for n in kept} for e in lines if e["request"] != "evaluate"]


def metrics_of(path: Path, *prefixes: str) -> dict[tuple[int, str], float]:
    lines = RunFolder(path).history("metrics.jsonl")
    return {(x["round"], x["name"]): x["value"] for x in lines if x["name"].startswith(prefixes)}


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("method", ["fedmmkt", "fedmd", "feddf", "creamfl", "fedavg"])
def test_a_run_at_sites_ends_in_the_bits_of_a_local_one(method, quick, tmp_path, monkeypatch) -> None:
    quick_judge(monkeypatch) if method == "fedmmkt" else no_judge(monkeypatch)
    usual = quick("fedmd" if method == "fedavg" else method, engine=OFF)
    experiment = usual.replace(method="fedavg", model={"width": 24}) if method == "fedavg" else usual
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    run(experiment, tmp_path / "local")
    result = go_on(experiment, NAMES, tmp_path / "far", silos)
    assert result.summary["status"] == "complete"
    one, two = state_of(tmp_path / "local"), state_of(tmp_path / "far")
    assert one.keys() == two.keys()
    assert [n for n in one if not torch.equal(one[n], two[n])] == []
    for site in NAMES:
        files = sorted((tmp_path / "local" / "state" / "clients" / site).glob("*.safetensors"))
        assert bool(files) == (method not in ("feddf", "fedavg"))
        assert kept_by(tmp_path / "sites", site) == (digest_of(read_checked(files[-1])) if files else None)
    assert ledger_of(tmp_path / "local") == ledger_of(tmp_path / "far")
    figures = ("local/", "generator/", "vote/", "fusion/", "train/", "synthesis/")
    here, there = metrics_of(tmp_path / "local", *figures), metrics_of(tmp_path / "far", *figures)
    assert {n for n in here if not n[1].startswith("local/")} == {
        n for n in there if not n[1].startswith("local/")
    }
    assert any(n.startswith("local/image/accuracy") for _, n in there)
    assert any(n.startswith("generator/fid") for _, n in there) == (method == "fedmmkt")
    for key in there:
        assert there[key] == pytest.approx(here[key], abs=1e-12), key
    assert metrics_of(tmp_path / "far", "global/", "client/", "spread/") == {}


def test_a_site_alone_builds_what_the_deal_over_all_clients_gives_it(quick, tmp_path, monkeypatch) -> None:
    no_judge(monkeypatch)
    experiment = quick("fedmmkt", engine=OFF)
    together = build(experiment, None, lambda progress: None)
    monkeypatch.setattr("fedloom.models.generation.load.load_synthesis", None)  # no site calls it
    chosen = [architecture_of(together.engine.model, name) for name in NAMES]
    assert len(set(chosen)) == 3
    for name, group in zip(NAMES, chosen, strict=True):
        alone = build_client(site(experiment, name), experiment)
        start = alone.engine.model.start
        assert alone.tools is None
        assert alone.clients[name].groups == together.clients[name].groups
        assert {group_of(n) for n in start} == {group}
        assert [n for n, t in start.items() if not torch.equal(t, together.engine.model.start[n])] == []


def architecture_of(bank: Any, client: str) -> str:
    group: str = bank.of_client[client]
    return group


def site(experiment: Experiment, name: str, sites: tuple[str, ...] = NAMES) -> Site:
    engine = EngineSettings(device="cpu")
    requests = requests_of(experiment)
    return Site(name=name, server="localhost:8000", sites=sites, requests=requests, engine=engine)


@pytest.mark.parametrize(
    ("method", "leaving"),
    [
        (
            "fedmmkt",
            "of each public item the likeliest class, the entropy and the representation; counts, losses",
        ),
        (
            "fedmd",
            "of each public item the probabilities, the entropy and the representation; counts, losses",
        ),
    ],
)
def test_the_terms_of_a_site_say_what_leaves_it(method, leaving, quick, tmp_path) -> None:
    experiment = quick(method)
    RunFolder(tmp_path).write_experiment(experiment.as_dict())
    write_settings(site(experiment, "image-01"), tmp_path / "site.yaml")
    terms = run_site.terms(tmp_path)
    assert terms["leaves this site"].startswith(leaving)
    staying = "no personal tensors" if method == "feddf" else "every tensor of the model"
    assert terms["stays at this site"] == f"samples, answers, {staying}"


def test_a_site_that_knows_other_sites_than_the_server_is_refused_before_round_0(
    quick, tmp_path, monkeypatch
) -> None:
    """image-02 alone would be dealt the first architecture of its modality."""
    no_judge(monkeypatch)
    experiment = quick("fedmd", engine=OFF)
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    lonely = site(experiment, "image-02", ("image-02",))
    silos.trainers["image-02"] = SiteTrainer(lonely, experiment, tmp_path / "sites" / "image-02")
    message = "site image-02 has built another model than the server expects of it: 'tiny-resnet' where it should be tiny-vit"
    with pytest.raises(ExperimentError, match=message):
        go_on(experiment, NAMES, tmp_path / "far", silos)
    assert not (tmp_path / "far" / "experiment.yaml").exists(), "no run has begun"
    del silos.trainers["image-02"]  # started anew, as the others know it
    go_on(experiment, NAMES, tmp_path / "far", silos)
    assert RunFolder(tmp_path / "far").last() is not None


def test_a_wrong_answer_about_public_items_costs_its_site_alone(quick, tmp_path, monkeypatch) -> None:
    no_judge(monkeypatch)
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    experiment = quick("fedmmkt", engine=OFF, rounds=2)
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    spoilt = {
        "image-01": {"answer/label": lambda t: t + 1000},
        "image-02": {"answer/vector": lambda t: 3 * t},
    }

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        data = silos.trainer(name).answer(question)
        if question_of(question, "infer") and name in spoilt:
            answer = Answer.decode(data)
            tensors = dict(answer.payload.tensors)
            tensors |= {n: change(tensors[n]) for n, change in spoilt[name].items()}
            data = replace(answer, payload=Payload(tensors, answer.payload.numbers)).encode()
        yield name, data

    silos.between = between
    go_on(experiment, NAMES, tmp_path / "far", silos)
    infer, distil = (e for e in ledger_of(tmp_path / "far") if e["round"] == 2)
    assert infer["answered"] == distil["asked"] == distil["answered"] == ["text-01"]
    assert infer["refused"]["image-01"].startswith("predictions: a class lies outside 0 to 9")
    assert infer["refused"]["image-02"].startswith("representation: its rows must have norm 1")


@pytest.fixture(scope="module")
def trainers() -> dict[str, SiteTrainer]:
    """The sites' trainers, loaded once; a test gives them folders of its own."""
    return {}


@pytest.fixture
def sites(quick, trainers, tmp_path, monkeypatch) -> Silos:
    """Three sites of FedMMKT that have kept nothing yet."""
    no_judge(monkeypatch)
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    silos = Silos(quick("fedmmkt", engine=OFF, rounds=2), NAMES, tmp_path / "sites")
    silos.trainers = trainers
    for name in NAMES:
        trainer = silos.trainer(name)
        trainer.folder, trainer._states = tmp_path / "sites" / name, {}
    return silos


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """The result of a run that nothing disturbs, once there is one."""
    return {}


@pytest.fixture
def undisturbed(sites, known, tmp_path) -> str:
    """The result of a run that nothing disturbs, computed once for all tests."""
    if not known:
        go_on(sites.experiment, NAMES, tmp_path / "whole", sites)
        known["result"] = outcome(sites, tmp_path / "whole")
        for name, trainer in sites.trainers.items():
            trainer.folder, trainer._states = tmp_path / "again" / name, {}
    return known["result"]


@pytest.mark.parametrize(
    ("request_name", "point"),
    [("infer", "before send"), ("infer", "after the first upload"), *(("distil", p) for p in POINTS)],
)
def test_a_server_killed_at_any_point_goes_on_to_the_same_models(
    request_name, point, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(point, sites, patch, request_name)
        with pytest.raises(Killed):
            go_on(sites.experiment, NAMES, tmp_path / "run", sites)
    sites.between = None
    assert not (tmp_path / "run" / "state" / "round-000002").exists()
    for name in NAMES:
        reboot(sites, name)
    go_on(sites.experiment, NAMES, tmp_path / "run", sites)
    assert outcome(sites, tmp_path / "run") == undisturbed
    assert [(e["round"], e["request"]) for e in ledger_of(tmp_path / "run")] == [
        (1, "train"),
        (2, "infer"),
        (2, "distil"),
    ]


@pytest.mark.parametrize(
    ("request_name", "moment"),
    [
        ("infer", "while writing its state"),
        ("infer", "before it keeps its answer"),
        *(("distil", m) for m in MOMENTS),
    ],
)
def test_a_trainer_killed_in_a_round_is_asked_again_and_gives_the_same(
    request_name, moment, sites, undisturbed, tmp_path, monkeypatch
) -> None:
    struck: list[str] = []

    def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
        if name == "image-02" and question_of(question, request_name, round=2) and not struck:
            struck.append(name)
            kill_trainer(moment, sites, name, question, monkeypatch)
        yield name, sites.trainer(name).answer(question)

    sites.between = between
    go_on(sites.experiment, NAMES, tmp_path / "run", sites)
    assert struck
    assert outcome(sites, tmp_path / "run") == undisturbed
