"""Counts of pFedMMA and its baselines on ViT-B/16, from shapes alone (specification pfedmma, section 2)."""

import pytest
from typer.testing import CliRunner

from fedloom.cli.cost_clip import PRESETS, cost, table
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS


@pytest.fixture(scope="module")
def towers():
    return PRESETS["clip-vit-b16"]()


def counted(towers, clients=10, **fields):
    counts = cost(METHODS[fields.pop("name")].model_validate(fields), "", towers, clients)
    return counts.trained, counts.up, counts.down, counts.kept


@pytest.mark.identities
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "zero-shot"}, (0, 0, 0, 0)),
        ({"name": "promptfl"}, (8192, 8192, 8192, 0)),
        ({"name": "cocoop-fedavg"}, (41_504, 41_504, 41_504, 0)),
        ({"name": "cocoop-fedavg", "length": 4}, (35_360, 35_360, 35_360, 0)),
        ({"name": "fedpgp"}, (12_416, 8192, 8192, 4224)),
        ({"name": "fedpgp", "rank": 4}, (10_304, 8192, 8192, 2112)),
        ({"name": "fedotp"}, (16_384, 8192, 8192, 8192)),
        ({"name": "pfedmoap"}, (74_240, 8192, 81_920, 66_048)),
        ({"name": "pfedmma", "preset": "paper"}, (248_832, 3072, 3072, 245_760)),
        ({"name": "pfedmma", "preset": "paper", "bias": True}, (252_960, 3168, 3168, 249_792)),
        ({"name": "pfedmma", "preset": "released"}, (674_560, 8448, 8448, 666_112)),
        ({"name": "mma", "preset": "released"}, (674_560, 0, 0, 0)),
    ],
    ids=lambda value: str(value.get("name")) if isinstance(value, dict) else "",
)
def test_1_counts_of_the_table(method, expected, towers) -> None:
    assert counted(towers, **method) == expected


def test_other_scopes_and_smaller_rounds_follow(towers) -> None:
    tower = {"text": 3 * 2 * 32 * 512, "vision": 3 * 2 * 32 * 768}
    assert counted(towers, name="pfedmma", share="all") == (248_832, 248_832, 248_832, 0)
    assert counted(towers, name="pfedmma", share="none") == (248_832, 0, 0, 248_832)
    assert counted(towers, name="pfedmma", share="s_and_text")[1] == 3072 + tower["text"]
    assert counted(towers, name="pfedmma", share="vision_only")[1] == tower["vision"]
    assert counted(towers, clients=4, name="pfedmoap")[2] == 4 * 8192


def test_every_method_on_clip_is_in_the_table_with_its_presets() -> None:
    titles = [c.title for c in table("clip-vit-b32", 10)]
    assert len(titles) == len(set(titles)) == 10
    assert "pFedMMA, paper" in titles
    with pytest.raises(ExperimentError, match="unknown cost preset clip"):
        table("clip", 3)


def test_the_command_prints_the_table() -> None:
    shown = CliRunner().invoke(
        app, ["methods", "--cost", "clip-vit-b16", "--clients", "10"], env={"COLUMNS": "160"}
    )
    assert shown.exit_code == 0
    for figure in ("248,832", "3,072", "674,560", "8,448", "81,920", "66,048", "41,504", "12,416"):
        assert figure in shown.output
