"""Runs on own pictures, sounds and texts: the same bytes with and without worker processes and the cache on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from fedloom.data.media import accepted
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment


@pytest.fixture
def silos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clients with eight pictures, and one with eight sounds; a cache of their own."""
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(accepted, "SETTLED", 0.0)
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    noise = np.random.default_rng(0)
    for client in ("one", "two", "sounds"):
        place = tmp_path / "silos" / client
        place.mkdir(parents=True)
        lines = []
        for i in range(8):
            line = {"question": f"{i}?", "answer": ("red", "blue")[i % 2]}
            if client == "sounds":
                soundfile.write(place / f"{i}.wav", noise.uniform(-0.3, 0.3, 9_000), 16_000)
                line["audio"] = f"{i}.wav"
            else:
                Image.fromarray(noise.integers(0, 256, (40 + i, 48, 3), np.uint8)).save(place / f"{i}.png")
                line["image"] = f"{i}.png"
            lines.append(json.dumps(line))
        (place / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "silos"


def own(silos: Path, **engine: object) -> Experiment:
    fields = {
        "method": "fedavg-lora",
        "rounds": 2,
        "data": {"source": "folder", "path": str(silos)},
        "training": {"batch_size": 4},
        "evaluation": {"max_new_tokens": 3},
        "engine": {"threads": 1, "device": "cpu", **engine},
    }
    return Experiment.parse(fields)


def results(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p for p in sorted((folder / "model").rglob("*")) if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items()} | {
        "metrics": (folder / "metrics.jsonl").read_bytes()
    }


def test_workers_and_the_cache_change_no_bit(silos, tmp_path, loaders, patient) -> None:
    run(own(silos, loaders=0, cache=0, cohort=3), tmp_path / "plain")
    run(own(silos, loaders=2, cache=50, cohort=3), tmp_path / "workers")
    run(own(silos, loaders=0, cache=50, memory=0, cohort=3), tmp_path / "cached")
    plain, workers, cached = loaders
    assert plain.reads_here >= 24
    assert not plain.disk.written
    assert (workers.disk.written, workers.reads_here) == (24, 0), "each sample once, by a worker"
    assert (cached.disk.written, cached.reads_here) == (0, 0)
    assert cached.disk.hits >= 24
    want = results(tmp_path / "plain")
    assert results(tmp_path / "workers") == want
    assert results(tmp_path / "cached") == want


@pytest.mark.parametrize(("workers", "cohort"), [(0, "off"), (2, 3)])
def test_a_file_that_breaks_in_mid_run_costs_its_client_alone(
    silos, tmp_path, workers, cohort, loaders
) -> None:
    [two] = [c for c in own(silos).task.clients(own(silos).setup) if c.name == "two"]
    spoilt = [s.modalities.files["image"] for s in two.train]

    def spoil(told: Any) -> None:
        if told.round == 0:
            for file in spoilt:
                file.write_bytes(b"no picture")

    run(own(silos, loaders=workers, cache=0, memory=0, cohort=cohort), tmp_path / "run", observe=spoil)
    lines = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert lines[0]["answered"] == ["one", "sounds"]
    assert list(lines[0]["refused"]) == ["two"]
    assert lines[0]["refused"]["two"].startswith("raised ExperimentError: Client 'two', line ")
    assert ".png' cannot be used (cannot identify image file" in lines[0]["refused"]["two"]
