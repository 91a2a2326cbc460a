"""The files of experiments/real on folders of tiny stand-ins: every row loads, and the runs are built."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

from fedloom.experiment.build import build
from fedloom.experiment.settings import load_rows
from fedloom.models.mllm import checkpoint
from fedloom.models.mllm.load import load_model
from fedloom.models.settings import Foundation
from scripts.offline.silos_by_kind import asked, heard, told
from scripts.projector_start import standardised
from tests.models.encoders.tiny_encoders import write as write_encoder
from tests.models.test_weights import write_llm

REAL = Path("experiments/real").absolute()
CAPTIONS = [f"A {word} thing." for word in ["red", "green", "blue", "old", "new", "big", "small", "flat"]]


def silo(folder: Path, kind: str | None) -> None:
    """A client with two questions about pictures, about sounds, or without either."""
    folder.mkdir(parents=True)
    media = {}
    if kind == "image":
        Image.new("RGB", (40, 40), "red").save(folder / "a.png")
        media = {"image": "a.png"}
    if kind == "audio":
        soundfile.write(folder / "a.wav", np.zeros(8000, np.float32), 16_000)
        media = {"audio": "a.wav"}
    rows = [{**media, "question": "what is it?", "answer": "A fox.", "split": s} for s in ("train", "test")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with `real/`."""
    root = tmp_path_factory.mktemp("work")
    models = root / "real" / "models"
    models.mkdir(parents=True)
    write_llm(models / "smollm2")
    write_encoder("convnextv2", models).rename(models / "efficientnet-lite0")
    write_encoder("whisper", models).rename(models / "whisper-tiny-en")
    for name, kinds in {
        "public": ("image", "audio"),
        "silos": ("image", "image", "audio", "audio", None),
        "demo": ("image", "image", "audio", "audio"),
        "captions": ("image", "image"),
    }.items():
        for number, kind in enumerate(kinds):
            silo(root / "real" / "data" / "uniflow" / name / f"{kind}-{number}", kind)
    named = {"image": str(models / "efficientnet-lite0"), "audio": str(models / "whisper-tiny-en")}
    model = load_model(
        Foundation(
            llm=str(models / "smollm2"),
            encoder=named,
            audio_seconds=0.5,
            tokens=4,
            projector="mlp2x",
            prompt="bare",
            scale="native",
            llm_lora=None,
            encoder_lora=None,
        ),
        ["image", "audio"],
        "cpu",
        0,
    )
    assert model.mllm.config.scale == "native"
    checkpoint.save(model.mllm, models / "aligned")
    projector = model.mllm.projector.state_dict()
    save_file(projector, root / "real" / "start.safetensors")
    return root


@pytest.mark.parametrize("name", ["align", "uniflow", "fedma", "demo"])
def test_every_row_loads_and_is_built_on_folders_below_real(name, real, monkeypatch) -> None:
    monkeypatch.chdir(real)
    overrides = ["model.audio_seconds=0.5"] if name == "align" else []
    runs = load_rows(REAL / f"{name}.yaml", overrides)
    assert (REAL / f"{name}.yaml").read_text().startswith(f"# fedloom run experiments/real/{name}.yaml")
    assert len({run.row for run in runs}) == len(runs)
    run = max(runs, key=lambda run: run.rounds)
    federation = build(run, None, lambda told: None)
    model = federation.engine.model
    assert not model.feature_tensors, "the towers are frozen, so that their outputs are computed once"
    assert model.mllm.config.scale == "native"
    assert model.mllm.config.tokens == 4


def test_the_rows_of_the_table_are_those_of_table_3_with_local_and_centralised() -> None:
    rows = {run.row for run in load_rows(REAL / "uniflow.yaml")}
    assert rows == {"base", "local only", "FedAvg", "FedEx", "FedA²", "FedA² II", "centralised"}


def test_a_standardised_projector_centres_its_input_and_scales_its_output() -> None:
    torch.manual_seed(0)
    states = torch.randn(500, 6) * torch.tensor([1.0, 5, 0.1, 2, 3, 0.5]) + 4
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    plain = torch.nn.Sequential(torch.nn.Linear(6, 8))
    plain.load_state_dict({n: t.clone() for n, t in layers.state_dict().items() if n.startswith("0")})
    with torch.no_grad():
        wanted = plain((states - states.mean(0)) / states.std(0))
        standardised(layers, states, 0.25)
        assert torch.allclose(layers[0](states), wanted, atol=1e-4)
        out = layers(states)
    assert (out - out.mean(0)).std().item() == pytest.approx(0.25, rel=1e-4)


def test_questions_have_one_right_answer() -> None:
    import random

    pictures = [(Path(f"{i}.png"), caption) for i, caption in enumerate(CAPTIONS)]
    rows = asked(pictures, "food", random.Random(0))
    assert len(rows) == 24
    for row in rows[8:16]:
        assert row["answer"] == ("Yes." if row["question"] == "is it food?" else "No.")
    for row in rows[16:]:
        assert row["question"].count(row["answer"][1:-1]) == 1, "the caption is one of four"
    assert len(asked(pictures, "food", random.Random(0), 2)) == 16
    assert [r["answer"] for r in heard([(Path("a"), "one")], [Path("b")])] == ["One.", "Yes.", "No."]
    assert {r["answer"] for r in told([("A fox.", "animals")], random.Random(0))} == {"Yes.", "No."}
