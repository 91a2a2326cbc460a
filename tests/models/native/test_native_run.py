"""Federated runs of native models through the public interface: own folders of data, resume, answers, and every LoRA method."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.payload import group_of
from fedloom.data.sources.folder import load_folder
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.models.native.collate import collate
from fedloom.models.native.load import load_native
from fedloom.tasks.benchmark import retrieval
from fedloom.tasks.question_answering import picture_features
from tests.models.native.test_families import plain
from tests.models.native.tiny_families import FAMILIES

HELD = {  # clients and what each holds, where not all hold pictures
    "qwen2_5_vl": {"pictures": ["image"], "texts": []},
    "qwen2_audio": {"one": ["audio"], "two": ["audio"]},
    "voxtral": {"one": ["audio"], "two": ["audio"]},
    "gemma4": {"pictures": ["image"], "sounds": ["audio"]},
    "qwen2_5_omni_thinker": {"pictures": ["image"], "sounds": ["audio"]},
}
RUNS = {name: HELD.get(name, {"one": ["image"], "two": ["image"]}) for name in FAMILIES}


@pytest.fixture
def silos(tmp_path: Path) -> Callable[[dict[str, list[str]]], Path]:
    """A folder per client with six questions about small pictures and sounds."""

    def write(clients: dict[str, list[str]]) -> Path:
        for client, held in clients.items():
            place = tmp_path / "silos" / client
            place.mkdir(parents=True)
            lines = []
            for i in range(6):
                line: dict[str, Any] = {"question": f"{i}?", "answer": ("red", "blue")[i % 2]}
                if "image" in held:
                    colour = ((210, 40, 40), (40, 60, 200))[i % 2]
                    Image.new("RGB", (40 + 4 * i, 48), colour).save(place / f"{i}.png")
                    line["image"] = f"{i}.png"
                if "audio" in held:
                    wave = 0.3 * np.sin(np.arange(9000 + 500 * i) / (4, 9)[i % 2])
                    soundfile.write(place / f"{i}.wav", wave, 16_000)
                    line["audio"] = f"{i}.wav"
                lines.append(json.dumps(line))
            (place / "metadata.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / "silos"

    return write


def experiment(folder: Path, data: Path, method: str = "feda2-lora", **more: Any) -> Experiment:
    fields: dict[str, Any] = {
        "method": method,
        "rounds": 2,
        "data": {"source": "folder", "path": str(data)},
        "model": {"native": str(folder), "llm_lora": {"rank": 4}, "encoder_lora": {"rank": 2}},
        "training": {"batch_size": 2, "lr": 0.01},
        "evaluation": {"controls": False, "samples": 1, "max_new_tokens": 3},
    }
    return Experiment.parse({**fields, **more})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "report" not in request.node.name:
        monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")


@pytest.mark.parametrize("name", RUNS)
def test_two_clients_two_rounds_resumed_in_the_same_bytes_and_loaded_by_plain_peft(
    name, checkpoint, silos, tmp_path
) -> None:
    data = silos(RUNS[name])
    settings = experiment(checkpoint(name), data)
    whole = run(settings, tmp_path / "whole")
    assert whole.summary["status"] == "complete"

    def stop(told: Any) -> None:
        if told.client is not None and told.round == 2:
            raise Killed

    with pytest.raises(Killed):
        run(settings, tmp_path / "cut", observe=stop)
    run(settings, tmp_path / "cut", resume=True)
    assert files(tmp_path / "cut" / "model") == files(tmp_path / "whole" / "model")
    metrics = [(tmp_path / n / "metrics.jsonl").read_bytes() for n in ("cut", "whole")]
    assert metrics[0] == metrics[1]

    model = load(tmp_path / "whole")
    batch = [model.prepare(s) for client in load_folder(data) for s in client.train[:2]]
    trained = float(model.loss(batch))
    inputs = collate(batch, model.reader.pad, answers=True).inputs
    with torch.no_grad():
        logits = model.model(**inputs).logits
        other = plain(checkpoint(name), tmp_path / "whole" / "model")
        assert torch.allclose(other(**inputs).logits, logits, atol=1e-5)
    model.load({})
    assert trained < float(model.loss(batch))  # the batch was learned


def test_a_run_with_report_answers_questions_and_keeps_its_ledger(checkpoint, silos, tmp_path) -> None:
    data = silos(RUNS["qwen2_5_omni_thinker"])
    result = run(experiment(checkpoint("qwen2_5_omni_thinker"), data), tmp_path / "run")
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert [sorted(entry["answered"]) for entry in ledger if entry.get("answered")]
    assert {c["client"]: c["holds"] for c in result.summary["clients"]} == {
        "pictures": ["image"],
        "sounds": ["audio"],
    }
    asked = ["ask", str(tmp_path / "run"), "--question", "what?", "--image", str(data / "pictures" / "0.png")]
    answer = CliRunner().invoke(app, [*asked, "--max-new-tokens", "3"])
    assert answer.exit_code == 0, answer.output


METHODS = ["fedavg-lora", "fedex-lora", "feddpa-lora", "fedsa-lora", "scaffold", "hetlora"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_train_every_part_and_only_holders_train_an_encoder(
    method, checkpoint, silos, tmp_path
) -> None:
    data = silos({"pictures": ["image"], "texts": [], "views": ["image"]})
    more: dict[str, Any] = {"cohort": {"ranks": {"llm": [4, 2]}}} if method == "hetlora" else {}
    result = run(experiment(checkpoint("qwen2_vl"), data, method, **more), tmp_path / "run")
    assert result.summary["status"] == "complete"
    personal = tmp_path / "run" / "model" / "clients"
    model = load(tmp_path / "run", "pictures" if personal.is_dir() else None)
    tensors = model.exported()
    start = model.start
    moved = {group_of(n) for n, t in tensors.items() if n not in start or not torch.equal(t, start[n])}
    assert moved == {"encoder.image", "llm", "projector"}
    assert model.groups([]) == {"llm"}


def test_secure_sums_and_two_holders_of_every_part(checkpoint, silos, tmp_path) -> None:
    data = silos({"one": ["image"], "two": ["image"], "three": ["image"]})
    settings = experiment(checkpoint("llava"), data, "fedavg-lora", privacy={"secure": {}})
    assert run(settings, tmp_path / "run").summary["status"] == "complete"


def test_pictures_have_features_for_a_partition_and_captions_a_likelihood(checkpoint, silos) -> None:
    data = silos({"one": ["image"], "two": ["image"]})
    setup = experiment(checkpoint("qwen3_vl"), data).setup
    pictures = [s for client in load_folder(data) for s in client.train]
    vectors = picture_features(setup, pictures)
    assert vectors.shape == (len(pictures), 32)
    assert not torch.allclose(vectors[0], vectors[1])
    model = load_native(setup.foundation, ["image"], "cpu", 0)
    metrics = retrieval(model, [replace(s, question="") for s in pictures], candidates=2)
    assert metrics.keys() == {"r1_likelihood", "candidates", "captions"}


def test_a_vera_adapter_two_stages_and_a_frozen_encoder(checkpoint, silos, tmp_path) -> None:
    data = silos({"pictures": ["image"], "texts": []})
    model = {
        "native": str(checkpoint("gemma3")),
        "llm_lora": {"kind": "vera", "rank": 8},
        "encoder_lora": None,
    }
    run(experiment(checkpoint("gemma3"), data, model=model), tmp_path / "run")
    again = load(tmp_path / "run")
    assert {group_of(n) for n in again.tensors} == {"llm", "projector"}
    moved = {group_of(n) for n, t in again.tensors.items() if not torch.equal(t.detach(), again.start[n])}
    assert moved == {"llm", "projector"}
