"""Three hand-made silos, one with pictures, one with sounds, one with text, from the folder to the answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment

COLOURS = {"red": (210, 40, 40), "blue": (40, 60, 200)}


@pytest.fixture
def silos(tmp_path: Path) -> Path:
    root = tmp_path / "silos"
    lines: dict[str, list[dict[str, str]]] = {"pictures": [], "sounds": [], "texts": []}
    for client in lines:
        (root / client).mkdir(parents=True)
    for i in range(10):
        name, rgb = list(COLOURS.items())[i % 2]
        picture = Image.new("RGB", (60, 48), (200, 200, 200))
        ImageDraw.Draw(picture).rectangle((15 + i, 12, 40 + i, 36), fill=rgb)  # copies would share a part
        picture.save(root / "pictures" / f"{i}.png")
        lines["pictures"].append(
            {"image": f"{i}.png", "question": "what colour is it?", "answer": f"it is {name}"}
        )
        pitch = (300 if i % 2 else 900) + i
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(8000) / 8000)
        soundfile.write(root / "sounds" / f"{i}.wav", wave, 8000)
        lines["sounds"].append(
            {"audio": f"{i}.wav", "question": "is it high?", "answer": "no" if i % 2 else "yes"}
        )
        lines["texts"].append({"question": f"{i} and one?", "answer": f"it is {i + 1}"})
    for client, records in lines.items():
        (root / client / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return root


def own(silos: Path, **settings: object) -> Experiment:
    fields = {
        "method": "feda2-lora",
        "rounds": 2,
        "data": {"source": "folder", "path": str(silos)},
        "training": {"batch_size": 4},
    }
    return Experiment.parse({**fields, **settings})


def test_three_silos_train_one_model_that_answers_and_every_file_is_written(
    silos: Path, tmp_path: Path
) -> None:
    result = run(own(silos), tmp_path / "run")
    rows = {row["client"]: row for row in result.summary["clients"]}
    assert {c: (r["holds"], r["train"], r["test"]) for c, r in rows.items()} == {
        "pictures": (["image"], 8, 2),
        "sounds": (["audio"], 8, 2),
        "texts": ([], 8, 2),
    }
    assert result.summary["status"] == "complete"
    assert {"global/image/exact_match", "global/audio/exact_match", "global/text/exact_match"} <= set(
        result.summary["metrics"]
    )
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert set(ledger[0]["groups_up"]) == {"encoder.image", "encoder.audio", "llm", "projector"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png" in page
    assert "data:audio/wav" in page

    asked = CliRunner().invoke(
        app,
        [
            "ask",
            str(tmp_path / "run"),
            "--image",
            str(silos / "pictures" / "0.png"),
            "--question",
            "what colour is it?",
        ],
    )
    assert asked.exit_code == 0, asked.output
    heard = CliRunner().invoke(
        app, ["ask", str(tmp_path / "run"), "--audio", str(silos / "sounds" / "0.wav")]
    )
    assert heard.exit_code == 0, heard.output


def test_learning_on_own_data_is_learning(silos: Path) -> None:
    result = run(own(silos, rounds=12, training={"schedule": "simultaneous", "batch_size": 4, "lr": 0.005}))
    metrics = result.summary["metrics"]
    assert metrics["global/image/token_accuracy"] > metrics["start"]["global/image/token_accuracy"]


def test_a_file_that_breaks_during_the_run_costs_that_client_only(silos: Path, tmp_path: Path) -> None:
    from fedloom.experiment.build import build
    from fedloom.federation.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    folder.create()
    federation = build(own(silos), folder, lambda told: None)
    for i in range(10):
        (silos / "pictures" / f"{i}.png").write_bytes(b"gone bad")
    federation.run()
    ledger = folder.history("ledger.jsonl")
    assert [list(entry["refused"]) for entry in ledger] == [["pictures"], ["pictures"]]
    assert all(e["refused"]["pictures"].startswith("raised") for e in ledger)
    assert federation.totals.status() == "complete, but 2 of 6 updates refused"


def test_the_data_command_shows_what_each_client_holds(silos: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"method: feda2-lora\ndata: {{source: folder, path: {silos}}}\n")
    shown = CliRunner().invoke(app, ["data", str(path), "--show", "1", "--out", str(tmp_path / "shown")])
    assert shown.exit_code == 0, shown.output
    for word in ("pictures", "sounds", "texts", "8", "it is"):
        assert word in shown.output
    assert sorted(p.suffix for p in (tmp_path / "shown").iterdir()) == [".png", ".wav"]


def test_samples_that_were_cut_to_fit_are_counted_in_ledger_and_status(silos: Path, tmp_path: Path) -> None:
    lines = (silos / "texts" / "metadata.jsonl").read_text().splitlines()
    long = json.loads(lines[0]) | {"question": "and " * 700}
    cut = [json.dumps(long | {"split": part}) for part in ("train", "test", "test")]
    (silos / "texts" / "metadata.jsonl").write_text("\n".join([*cut, *lines[3:]]) + "\n")
    result = run(own(silos, rounds=1, evaluation={"generate": False, "controls": False}), tmp_path / "run")
    tested = sum(row["test"] for row in result.summary["clients"])
    assert result.summary["status"] == f"complete, but 2 of {tested} test samples were cut to fit"
    entry = json.loads((tmp_path / "run" / "ledger.jsonl").read_text())
    assert entry["notes"] == ["texts: 1 training samples were cut to fit"]


def test_clients_that_only_test_are_measured_and_never_asked(quick, federate) -> None:
    data = {"clients": {"image": 2, "audio": 1}, "train": 6, "test": 2, "test_only": ["audio-*"]}
    federation = federate(quick("feda2-lora", rounds=1, data=data))
    federation.run()
    assert sorted(federation.clients) == ["image-01", "image-02"]
    assert "global/audio/token_accuracy" in federation.last_metrics
    assert federation.totals.asked == 2


@pytest.mark.parametrize(
    ("pattern", "sentence"), [("video-*", "no client is called video"), ("*", "names every client")]
)
def test_patterns_of_clients_that_only_test_are_checked(pattern, sentence, quick, federate) -> None:
    data = {"clients": {"image": 1}, "train": 4, "test": 2, "test_only": [pattern]}
    with pytest.raises(ExperimentError, match=sentence):
        federate(quick(data=data))
