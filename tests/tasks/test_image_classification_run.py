"""Whole runs of image classification on a random CLIP: which figures come out, when, and what is written."""

import json
from pathlib import Path

import pytest
import torch

from fedloom.experiment.report import comparison
from fedloom.experiment.run import run
from fedloom.tasks.metrics import harmonic_mean

FIGURES = {"local/image/accuracy", "base/image/accuracy", "novel/image/accuracy", "hm", "hm2"}


def history(folder: Path) -> dict[str, list[int]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, list[int]] = {}
    for line in lines:
        found.setdefault(line["name"], []).append(line["round"])
    return found


@pytest.mark.parametrize("method", ["pfedmma", "promptfl", "zero-shot", "mma"])
def test_a_run_ends_with_local_base_and_novel_accuracy(method: str, quick, tmp_path: Path) -> None:
    experiment = quick(
        method, rounds=3, evaluation={"every": 2, "generate": True, "controls": True, "samples": 2}
    )
    result = run(experiment, tmp_path / "r")
    metrics = result.summary["metrics"]
    assert set(metrics) >= FIGURES
    assert set(metrics["start"]) >= FIGURES
    assert metrics["hm"] == pytest.approx(
        harmonic_mean(*(metrics[f"{n}/image/accuracy"] for n in ("local", "base", "novel")))
    )
    assert not any(name.startswith(("global/", "control/")) for name in metrics)
    rounds = history(tmp_path / "r")
    assert rounds["hm"] == rounds["novel/image/accuracy"] == [0, 2, 3], "as often as evaluation.every says"
    for client in result.summary["clients"]:
        assert set(client["metrics"]) == {"image/accuracy", "base/accuracy", "novel/accuracy"}
    answers = [json.loads(x) for x in (tmp_path / "r" / "predictions-end.jsonl").read_text().splitlines()]
    classes = experiment.data.classes()
    assert classes is not None
    assert {a["prediction"] for a in answers} <= set(classes.base)
    right = {}
    for answer in answers:
        right.setdefault(answer["client"], []).append(answer["prediction"] == answer["reference"])
    own = {c: sum(r) / len(r) for c, r in right.items()}
    assert metrics["local/image/accuracy"] == pytest.approx(sum(own.values()) / len(own))
    titles = [c.title for c in comparison(tmp_path / "r").columns]
    assert titles == ["local", "base", "novel", "HM", "bytes up", "bytes down", "time"]


def test_a_common_model_is_loaded_once_an_evaluation_and_its_training_shows(
    quick, federate, monkeypatch
) -> None:
    federation = federate(quick("promptfl", rounds=1, training={"lr": 5.0, "epochs": 3}))
    model = federation.engine.model
    loaded = []
    load = type(model).load

    def spy(self, tensors, ratios=None) -> None:
        loaded.append({name: tensor.clone() for name, tensor in tensors.items()})
        load(self, tensors, ratios)

    federation._assess(0, ends=False)
    monkeypatch.setattr(type(model), "load", spy)
    federation._assess(0, ends=False)
    assert len(loaded) == 1
    federation.run()
    loaded.clear()
    federation._assess(1, ends=False)
    assert len(loaded) == 1
    assert torch.equal(loaded[0]["prompt/context"], federation.state.shared["prompt/context"])
    assert not torch.equal(loaded[0]["prompt/context"], model.start["prompt/context"])


def test_a_personal_model_is_loaded_for_each_client(quick, federate, monkeypatch) -> None:
    federation = federate(quick("pfedmma", rounds=1, training={"lr": 1.0}, engine={"cohort": "off"}))
    federation.run()
    model, loaded = federation.engine.model, []
    monkeypatch.setattr(type(model), "load", lambda self, tensors, ratios=None: loaded.append(tensors))
    federation._assess(1, ends=False)
    assert len(loaded) == 3
    name = next(n for n in loaded[0] if n.startswith("adapter/text"))
    assert not torch.equal(loaded[0][name], loaded[1][name])


def test_zero_shot_stays_where_it_began_and_sends_nothing(quick) -> None:
    summary = run(quick("zero-shot", rounds=2)).summary
    start = summary["metrics"]["start"]
    assert {n: summary["metrics"][n] for n in FIGURES} == {n: start[n] for n in FIGURES}
    assert (summary["bytes_up"], summary["shared_parameters"]) == (0, 0)
