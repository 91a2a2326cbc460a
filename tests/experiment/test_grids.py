"""Grids of an experiment file: every combination of several axes, with its place on each."""

from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.experiment.study import place

FILE = """
name: g
method: fedavg-lora
grid:
  steps: {4: {training.steps: 4}, 16: {training.steps: 16}}
  rate: {low: {training.lr: 0.001}, high: {training: {lr: 0.01}}}
rows: {a: {}, b: {method.name: flexlora, training.lr: 0.5}}
"""


def rows(tmp_path: Path, text: str, *overrides: str) -> list[Experiment]:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    return load_rows(file, overrides)


def test_a_grid_is_every_combination_of_its_axes_in_order(tmp_path: Path) -> None:
    runs = rows(tmp_path, FILE)
    cells = ["steps 4, rate low", "steps 4, rate high", "steps 16, rate low", "steps 16, rate high"]
    assert [(r.row, r.across) for r in runs] == [(row, cell) for row in "ab" for cell in cells]
    assert [(r.training.steps, r.training.lr) for r in runs[:4]] == [
        (4, 0.001),
        (4, 0.01),
        (16, 0.001),
        (16, 0.01),
    ]
    assert runs[1].coordinates == {"steps": "4", "rate": "high"}
    assert {r.training.lr for r in runs[4:]} == {0.5}, "a row lies over the grid"
    assert {r.training.lr for r in rows(tmp_path, FILE, "training.lr=0.7")} == {0.7}
    assert place(runs[1]) == "a/steps-4-rate-high/seed-0"


def test_several_grids_are_joined_and_a_size_may_have_its_own(tmp_path: Path) -> None:
    two = FILE.replace("grid:\n  steps", "grid:\n- steps").replace(
        "\nrows",
        "\n- clip: {on: {training.clip: 1.0}, off: {training.clip: null}}\n"
        "  start: {common: {}, own: {cohort.start: own}}\n"
        "sizes: {small: {grid: {x: {1: {seed: 1}, 2: {seed: 2}}, y: {1: {rounds: 1}, 2: {rounds: 2}}}}}\nrows",
    )
    runs = rows(tmp_path, two)
    assert len(runs) == 16
    assert runs[7].coordinates == {"clip": "off", "start": "own"}
    assert [(r.seed, r.rounds) for r in rows(tmp_path, two, "size=small")[:4]] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_a_record_keeps_its_place_and_is_read_again(tmp_path: Path) -> None:
    run = rows(tmp_path, FILE)[2]
    record = tmp_path / "record.yaml"
    record.write_text(yaml.safe_dump(run.as_dict() | {"versions": {"fedloom": "0"}}))
    assert load_rows(record) == [run]
    record.write_text(yaml.safe_dump(run.as_dict()))
    assert load_rows(record) == [run]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (
            "{steps: {4: {training.steps: 4}, 8: {training.steps: 8}}}",
            "grid needs two axes or more; use across",
        ),
        ("{a: {1: {seed: 1}, 2: {seed: 2}}, b: {x: {rounds: 1}}}", "b needs two entries or more"),
        ("{a: {1: {seed: 1}, 2: {seed: 2}}, b: {x: 3, y: {}}}", "b must map a label to settings"),
        ("[3]", "grid must map an axis to its entries"),
        ("[]", "grid is empty; leave it out"),
        (
            "{a: {1: {training.lr: 1}, 2: {training.lr: 2}}, b: {x: {training: {lr: 3}}, y: {}}}",
            "the axes a and b both set training.lr; let one of them do it",
        ),
        (
            "{a: {1: {seed: 1}, 2: {seed: 2}}, b: {x: {training.momentum: 0.5}, y: {}}}",
            "training.momentum is read only with training.optimizer",
        ),
        ("{a: {1: {size: small}, 2: {}}, b: {x: {rounds: 1}, y: {}}}", "sets size, which it cannot change"),
        (
            "{a: {1: {coordinates: {}}, 2: {}}, b: {x: {rounds: 1}, y: {}}}",
            "a cell has its coordinates from grid",
        ),
    ],
)
def test_a_faulty_grid_is_refused_in_a_sentence(tmp_path: Path, grid: str, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        rows(tmp_path, f"method: fedavg-lora\ngrid: {grid}\n")


def test_what_a_grid_decides_is_set_by_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="both across and grid; make across an axis"):
        rows(tmp_path, FILE + "across: {x: {}}\n")
    with pytest.raises(
        ExperimentError, match="overrides set coordinates: a cell has its coordinates from grid"
    ):
        rows(tmp_path, FILE, "coordinates={a: b}")
    with pytest.raises(ExperimentError, match="sets coordinates: a cell has its coordinates from grid"):
        rows(tmp_path, "method: fedavg-lora\ncoordinates: {a: b}\n")
    with pytest.raises(ExperimentError, match="the override across=x"):
        rows(tmp_path, FILE, "across=x")
    same = (
        "method: fedavg-lora\ngrid:\n"
        + 2 * "- {a: {1: {seed: 1}, 2: {seed: 2}}, b: {x: {rounds: 1}, y: {}}}\n"
    )
    with pytest.raises(ExperimentError, match="the cell 'a 1, b x' stands in an earlier grid"):
        rows(tmp_path, same)
