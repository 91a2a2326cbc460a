"""CLIP, classifiers and own models on files: the same bytes as with all samples prepared at once, in memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from fedloom.data.media import accepted
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from tests.models.loading.test_loading_run import results

COUNT = 32


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(accepted, "SETTLED", 0.0)
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")


def pictures(folder: Path) -> Path:
    """COUNT pictures of two classes, with a label and a text each."""
    noise, lines = np.random.default_rng(0), []
    for i in range(COUNT):
        place = folder / ("ant", "bee")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (20 + i, 24, 3), np.uint8)).save(place / f"{i:02d}.png")
        fields = {"file_name": f"{place.name}/{i:02d}.png", "label": place.name, "text": f"number {i}"}
        lines.append(json.dumps(fields))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def sounds(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    for i in range(COUNT):
        place = folder / ("ant", "bee")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{i:02d}.wav", noise.uniform(-0.3, 0.3, 4_000 + 100 * i), 16_000)
    return folder


def clip(folder: Path, clip_folder: Path) -> dict[str, Any]:
    data = {"source": "classes", "dataset": "things", "path": str(clip_folder / "pictures")}
    few = {"clients": {"image": 2}, "partition": {"kind": "few-shot", "shots": 3}}
    return {
        "method": "pfedmma",
        "data": data | few,
        "model": {"clip": str(clip_folder / "clip")},
        "training": {"batch_size": 4, "optimizer": "sgd", "lr": 0.02, "clip": None},
    }


def classified(write: Callable[[Path], Path]) -> Callable[[Path, Path], dict[str, Any]]:
    def settings(folder: Path, clip_folder: Path) -> dict[str, Any]:
        data = {"path": str(write(folder)), "clients": 2, "answers": "labels", "test_share": 0.25}
        return {"method": "fedavg-lora", "data": data, "training": {"batch_size": 4}}

    return settings


def own(folder: Path, clip_folder: Path) -> dict[str, Any]:
    """Two architectures, whose inputs are of one size."""
    data = {"source": "labelled", "dataset": "insects", "path": str(pictures(folder))}
    deal = {"clients": {"image": 2}, "train": 8, "test": 8, "dirichlet": None}
    return {
        "method": "local-only",
        "data": data | deal,
        "model": {"architectures": {"image": ["tiny-vit", "tiny-resnet"]}, "width": 8},
        "training": {"batch_size": 4},
    }


KINDS = {"clip": clip, "pictures": classified(pictures), "sounds": classified(sounds), "own": own}
"""The settings of a run, by kind of model."""


@pytest.mark.parametrize("kind", KINDS)
def test_workers_and_the_cache_change_no_bit_of_any_kind(
    kind, tmp_path, clip_folder, loaders, patient, monkeypatch
) -> None:
    settings = KINDS[kind](tmp_path / "data", clip_folder)

    def end(name: str, **engine: Any) -> dict[str, bytes]:
        common = {"rounds": 2, "evaluation": {"generate": True, "controls": False, "samples": 0}}
        fields = {**settings, **common, "engine": {"threads": 1, "device": "cpu", **engine}}
        run(Experiment.parse(fields), tmp_path / name)
        predictions = (tmp_path / name / "predictions-end.jsonl").read_bytes()
        return results(tmp_path / name) | {"predictions": predictions}

    with monkeypatch.context() as patch:
        patch.setattr("fedloom.models.loading.prepared.from_files", lambda samples: False)
        want = end("at-once", loaders=0, cache=0)
    assert len(want) > 2, "tensors, too"
    assert end("two", loaders=2, cache=50) == want
    assert end("one", loaders=1, cache=0) == want
    assert end("here", loaders=0, cache=0) == want
    assert end("cached", loaders=0, cache=50, memory=0) == want
    at_once, two, one, here, cached = loaders
    assert at_once.reads_here == two.reads_here == one.reads_here == cached.reads_here == 0
    assert here.reads_here == two.disk.written > 0, "each sample once"
    assert cached.disk.hits > here.reads_here, "and again for each use, where memory keeps none"
