"""The numbers of UniFLoW's Tables 6 and 7, derived from scopes (fedlora.md section 8)."""

import pytest
from typer.testing import CliRunner

from fedloom.cli.cost import PRESETS, table
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError

UNIT, HEAD = 786_432, 1_051_650


@pytest.fixture(scope="module")
def roberta():
    return {c.method: c for c in table("roberta-large", 3)}


@pytest.mark.identities
def test_29_table_7_of_the_paper(roberta) -> None:
    trained = {m: c.trained for m, c in roberta.items()}
    assert (
        trained["fedavg-lora"] == trained["feda2-lora"] == trained["fedsa-lora"] == UNIT + HEAD == 1_838_082
    )
    assert trained["ffa-lora"] == 1_444_866
    assert trained["feddpa-lora"] == 2_624_514
    assert {m: roberta[m].up for m in ("feda2-lora", "ffa-lora", "feddpa-lora", "fedsa-lora")} == {
        "feda2-lora": UNIT,
        "ffa-lora": 393_216,
        "feddpa-lora": UNIT,
        "fedsa-lora": 393_216,
    }
    assert all(c.head == HEAD for c in roberta.values())


@pytest.mark.identities
def test_29_fedex_down_dense_and_as_factors(roberta) -> None:
    fedex = roberta["fedex-lora"]
    assert fedex.down_dense - fedex.up == 64 * UNIT == 50_331_648
    assert fedex.mean_dense == 33 * UNIT == 25_952_256
    assert fedex.down == 3 * UNIT == 2_359_296
    assert fedex.mean == 2 * UNIT
    for clients, down, mean in ((10, 7_864_320, 5.5), (20, 15_728_640, 10.5)):
        more = next(c for c in table("roberta-large", clients) if c.method == "fedex-lora")
        assert (more.down, more.mean) == (down, mean * UNIT)


def test_what_stacking_alternating_and_staying_local_cost(roberta) -> None:
    of = {m: (roberta[m].up, roberta[m].down) for m in ("flora", "rolora", "local-only")}
    assert of == {"flora": (UNIT, 3 * UNIT), "rolora": (UNIT // 2, UNIT), "local-only": (0, 0)}


@pytest.mark.identities
def test_29_table_6_of_the_paper() -> None:
    sizes = PRESETS["uniflow"]()
    of = {
        part: sum(s.numel() for n, s in sizes.items() if n.startswith(part))
        for part in ("llm", "encoder", "projector", "encoder.image", "encoder.audio")
    }
    assert of == {
        "llm": 33_554_432,
        "encoder": 5_865_472,
        "projector": 4_198_400,
        "encoder.image": 2_621_440,
        "encoder.audio": 589_824,
    }
    assert sum(s.numel() for s in PRESETS["tinyllama-1.1b"]().values()) == 9_011_200
    three = {n: s for n, s in PRESETS["roberta-large-3"]().items() if n.startswith("head/")}
    assert sum(s.numel() for s in three.values()) == 1_052_675


def test_the_command_prints_the_table_and_refuses_an_unknown_preset() -> None:
    shown = CliRunner().invoke(app, ["methods", "--cost", "roberta-large"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    for figure in ("1,838,082", "1,444,866", "2,624,514", "393,216", "25,952,256"):
        assert figure in shown.output
    with pytest.raises(ExperimentError, match="unknown cost preset roberta; known are"):
        table("roberta", 3)


def test_a_narrow_terminal_breaks_no_number() -> None:
    result = CliRunner().invoke(app, ["methods", "--cost", "uniflow"], env={"COLUMNS": "60"})
    assert result.exit_code == 0
    assert "43,618,304" in result.output
