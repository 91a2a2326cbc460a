"""Federated pre-training of the projector, and a native multimodal model, between sites: the local engine's bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedloom.deploy import server
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Site, requests_of
from fedloom.deploy.trainer import SiteTrainer
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from tests.deploy.silos import Silos
from tests.models.native.tiny_families import FAMILIES

EVALUATION = {"controls": False, "samples": 0, "generate": False, "loss": True}
PRETRAINING: dict[str, Any] = {
    "data": {"source": "captions", "clients": {"image": 2}, "train": 8, "test": 2},
    "model": {"llm_lora": None, "encoder_lora": None, "projector": "mlp2x"},
    "training": {
        "schedule": "simultaneous",
        "one_pass": True,
        "batch_size": 2,
        "lr": 0.01,
        "lr_schedule": "run_cosine",
    },
}


def native(family: str, folder: Path) -> dict[str, Any]:
    """Settings for a tiny random checkpoint, which the family's own classes have written."""
    FAMILIES[family](folder)
    return {
        "data": {"clients": {"image": 2}, "train": 4, "test": 2},
        "model": {"native": str(folder), "llm_lora": {"rank": 4}, "encoder_lora": {"rank": 2}},
        "training": {"batch_size": 2, "lr": 0.01},
    }


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ({"name": "fedcmp", "rank": 40}, None),
        ("scalar-reliability", None),
        ("feda2-lora", "qwen2_5_vl"),
        ("fedsa-lora", "llava"),
    ],
    ids=str,
)
def test_a_foundation_model_between_sites_ends_in_the_local_engines_bits(
    method, family, tmp_path, monkeypatch
) -> None:
    (tmp_path / "model").mkdir()
    settings = PRETRAINING if family is None else native(family, tmp_path / "model")
    common = {"rounds": 2, "evaluation": EVALUATION, "engine": {"cohort": "off"}}
    experiment = Experiment.parse({**settings, **common, "method": method})
    local = build(experiment, None, lambda progress: None)
    before = dict(local.state.shared)
    local.run()
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    names = tuple(local.names)
    far = go_on(experiment, names, tmp_path / "far", Silos(experiment, names, tmp_path / "sites"))
    assert far.status() == local.status()
    assert far.state.shared.keys() == local.state.shared.keys()
    assert all(torch.equal(t, local.state.shared[n]) for n, t in far.state.shared.items())
    assert any(not torch.equal(t, before[n]) for n, t in far.state.shared.items() if n in before)
    figures = {n: v for n, v in far.last_metrics.items() if n.startswith(("global/", "local/"))}
    assert any(name.endswith("/loss") for name in figures)
    assert figures == pytest.approx(
        {n: local.last_metrics[n] for n in figures}, abs=1e-6
    )  # batches of test samples differ


def test_sites_with_captions_of_their_own_end_where_one_machine_does(tmp_path, monkeypatch) -> None:
    names = ("north", "south")
    for number, name in enumerate(names):
        for place in (tmp_path / "all" / name, tmp_path / "at" / name / name):
            place.mkdir(parents=True)
            lines = []
            for i in range(6 + number):
                Image.new("RGB", (40, 32), (30 * i, 90 * number, 60)).save(place / f"{i}.png")
                lines.append(json.dumps({"file_name": f"{i}.png", "text": f"{i} in the {name}"}))
            (place / "metadata.jsonl").write_text("\n".join(lines))
    captions = {"source": "captions", "path": str(tmp_path / "all"), "partition": {"kind": "folder"}}
    common = {"rounds": 2, "evaluation": EVALUATION, "engine": {"cohort": "off"}}
    method = {"name": "fedcmp", "rank": 40}
    experiment = Experiment.parse({**PRETRAINING, **common, "data": captions, "method": method})
    local = build(experiment, None, lambda progress: None)
    local.run()
    silos = Silos(experiment, names, tmp_path / "sites")
    for name in names:
        site = Site(
            name=name,
            server="x:1",
            sites=names,
            requests=requests_of(experiment),
            data=tmp_path / "at" / name,
        )
        silos.trainers[name] = SiteTrainer(site, experiment, tmp_path / "sites" / name)
    monkeypatch.setattr(server, "finish", lambda federation, rows, tracking: federation)
    far = go_on(experiment, names, tmp_path / "far", silos)
    assert far.state.shared.keys() == local.state.shared.keys()
    assert all(torch.equal(t, local.state.shared[n]) for n, t in far.state.shared.items())
