"""`fedloom generate`: a labelled grid from a run or a generator; a mistake is one sentence and exit code 2."""

import sys

import numpy as np
import pytest
from PIL import Image

from fedloom.cli.generate import draw_grid, generator_of
from fedloom.cli.main import main
from tests.models.generation.tiny_generation import generator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that began with another generator than it ended with, and one without any."""
    root = tmp_path_factory.mktemp("runs")
    generator(latent=False, seed=1).save(root / "begun")
    generator(latent=False, seed=2).save(root / "run" / "model" / "generator")
    (root / "run" / "experiment.yaml").write_text(f"model: {{synthesis: {{generator: {root / 'begun'}}}}}\n")
    (root / "plain").mkdir()
    (root / "plain" / "experiment.yaml").write_text("model: {synthesis: {generator: tiny-t2i}}\n")
    return root / "run"


def fedloom(monkeypatch, capsys, *args: object) -> tuple[int, str]:
    """Exit code, and what was said of a mistake."""
    monkeypatch.setattr(sys, "argv", ["fedloom", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_run_shows_what_it_ended_with_and_on_request_what_it_began_with(
    run, tmp_path, monkeypatch, capsys
) -> None:
    settings = ("--count", 2, "--steps", 2)
    for name, more in (("end", ()), ("again", ()), ("start", ("--start",)), ("other", ("--seed", 1))):
        code, said = fedloom(
            monkeypatch,
            capsys,
            "generate",
            run,
            "a seven",
            "two",
            *settings,
            *more,
            "--out",
            tmp_path / "new" / f"{name}.png",
        )
        assert (code, said) == (0, "")
    files = {p.stem: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert files["end"] == files["again"]
    assert len({*files.values()}) == 3
    draw_grid(
        str(run.parent / "begun"), ["a seven", "two"], tmp_path / "plain.png", count=2, steps=2, device="cpu"
    )
    assert np.array_equal(
        *(np.asarray(Image.open(p)) for p in (tmp_path / "plain.png", tmp_path / "new" / "start.png"))
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no prompt", "there is no prompt"),
        ("empty prompt", "there is no prompt"),
        ("no generator", "has no generator in model/generator"),
        ("none at the start", "has no generator in model/generator"),
        ("start of no run", "is no run's folder"),
        ("unwritable", "cannot write"),
        ("no picture", "end its name with .png"),
        ("no foundation", "holds no generator"),
    ],
)
def test_mistakes(kind, words, run, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("x")
    out = ("--out", tmp_path / "grid.png")
    args = {
        "no prompt": (run, *out),
        "empty prompt": (run, " ", *out),
        "no generator": (run.parent / "plain", "a seven", *out),
        "none at the start": (run.parent / "plain", "a seven", "--start", *out),
        "start of no run": ("tiny-t2i", "a seven", "--start", *out),
        "unwritable": (run, "a seven", "--out", tmp_path / "file" / "grid.png"),
        "no picture": (run, "a seven", "--out", tmp_path / "grid.txt"),
        "no foundation": (tmp_path, "a seven", *out),
    }[kind]
    code, said = fedloom(monkeypatch, capsys, "generate", *args)
    assert code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert generator_of("tiny-t2i") == "tiny-t2i"
