"""The real-base row with tiny random models in the real ones' places: all sides do the same work."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.torch import load_file

from benchmarks import real_base
from benchmarks.plain import difference
from tests.models.encoders import tiny_encoders

NAMES = [f"{letter}nimal" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "smollm2").symlink_to(Path(str(files("fedloom.models"))) / "shipped" / "tiny-mllm" / "llm")
    for name, place in (("dinov2", "vision"), ("whisper", "whisper-tiny-en")):
        tiny_encoders.write(name, folder).rename(folder / place)
    return folder


@pytest.fixture(scope="module")
def stamps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stamps")
    animals = folder / "animals"
    animals.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        (animals / f"{name}.txt").write_text(f"An {name}.\n")
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(animals / f"{name}.png")
        soundfile.write(animals / f"{name}_desc.ogg", rng.normal(size=16000) * 0.1, 16000)
    return folder


def test_one_round_end_to_end_gives_the_rivals_adapters(models, stamps, tmp_path) -> None:
    real_base.deal(stamps, tmp_path / "silos", 4)
    figures = {}
    for kind in ("plain", "off", "auto"):
        figures[kind] = real_base.whole(
            real_base.experiment(models, tmp_path / "silos", kind), kind, tmp_path
        )
    start, rival = (load_file(tmp_path / f"plain-{n}.safetensors") for n in ("start", "after"))
    assert {n.split("/")[0] for n in rival} == {
        "llm",
        "encoder.image",
        "encoder.audio",
        "projector.image",
        "projector.audio",
    }
    for kind in ("off", "auto"):
        ours = load_file(tmp_path / f"{kind}-after.safetensors")
        assert difference(ours, rival) < 1e-4
        assert difference(load_file(tmp_path / f"{kind}-start.safetensors"), start) == 0
        assert difference(ours, start) > 1e-3
    assert (figures["plain"]["together"], figures["off"]["together"]) == (1, 1)
    assert figures["auto"]["together"] > 1
    assert all(f["peak"] > 100e6 for f in figures.values())


def test_all_sides_take_turns(models, stamps, tmp_path) -> None:
    real_base.deal(stamps, tmp_path / "silos", 2)
    sides = {kind: real_base.experiment(models, tmp_path / "silos", kind) for kind in ("plain", "off")}
    seconds = real_base.timed(sides, 2)
    assert {kind: len(values) for kind, values in seconds.items()} == {"plain": 2, "off": 2}
    assert all(value > 0 for values in seconds.values() for value in values)


def test_every_client_has_as_much_whatever_their_number(stamps, tmp_path) -> None:
    for clients in (2, 4):
        real_base.deal(stamps, tmp_path / str(clients), clients)
        silos = sorted((tmp_path / str(clients)).iterdir())
        assert len(silos) == clients
        assert {len((s / "metadata.jsonl").read_text().splitlines()) for s in silos} == {real_base.SAMPLES}


@pytest.mark.parametrize("clients", [1, 3, 6])
def test_more_clients_than_the_samples_are_enough_for_are_refused(clients, stamps, tmp_path) -> None:
    with pytest.raises(SystemExit, match="an even number from 2 to 4 is right"):
        real_base.deal(stamps, tmp_path, clients)


def test_the_table_has_times_and_memory() -> None:
    row = real_base.Row("real_base", "work", "another", "none", [1.0], [1.5], 2e-7, "peak memory 5 MB")
    assert "| work | 1.00 | 1.50 | 1.50 (1.50 to 1.50) | peak memory 5 MB | 2.0e-07 |" in real_base.table(
        [row]
    )
