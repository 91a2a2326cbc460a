"""Which method works with which privacy: one sentence where it does not, and the documentation's table."""

import re
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import load_rows
from fedloom.methods import METHODS
from fedloom.methods.base.clip import CLIPMethod
from fedloom.privacy.compatibility import private, works

LORA = sorted(name for name, m in METHODS.items() if not issubclass(m, CLIPMethod))


@pytest.mark.parametrize("part", ["secure", "dp"])
@pytest.mark.parametrize("name", LORA)
def test_an_experiment_is_refused_exactly_where_the_method_needs_more_than_means(name, part, quick) -> None:
    method = METHODS[name]
    if private(method):
        assert quick(name, privacy={part: {}}).privacy.sums
        return
    with pytest.raises(ExperimentError) as caught:
        quick(name, privacy={part: {}})
    text = str(caught.value)
    assert f"method {name} " in text
    assert "\n" not in text
    assert re.search("leave privacy out|take fedavg-lora", text)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cohort": {"ranks": {"llm": [4, 2]}}, "privacy": {"secure": {}}}, "leave cohort.ranks out"),
        (
            {"privacy": {"dp": {}}, "method": {"name": "fedavg-lora", "weights": "examples"}},
            "method.weights: uniform",
        ),
        ({"privacy": {"dp": {}}, "cohort": {"full_first_round": True}}, "leave cohort.full_first_round out"),
        (
            {
                "privacy": {"secure": {}},
                "method": {"name": "fedavg-lora", "warm_start": {"method": "flexlora", "rounds": 1}},
            },
            "method flexlora combines the products",
        ),
        ({"privacy": {"secure": {"bits": 16}}}, "privacy.secure.bits"),
        ({"privacy": {"secure": {"treshold": 0.9}}}, "did you mean threshold?"),
        (
            {
                "privacy": {"secure": {}},
                "method": "feda2-lora",
                "model": {
                    "llm_lora": {"kind": "vera", "rank": 4},
                    "encoder_lora": {"kind": "vera", "rank": 3},
                },
            },
            "set kind: lora",
        ),
    ],
)
def test_what_cannot_go_together_is_one_sentence(settings, why, quick) -> None:
    with pytest.raises(ExperimentError, match=re.escape(why)):
        quick(**{"method": "fedavg-lora", **settings})


def test_a_method_that_says_nothing_gets_no_means_only_privacy() -> None:
    from fedloom.methods import Method

    assert Method.combination == "individual"
    assert not works("individual")


def test_the_table_of_the_documentation_is_what_the_methods_say() -> None:
    page = Path("docs/privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([a-z]+) \| (yes|no)[^|]* \|", page, re.M)
    table = {name: (kind, word == "yes") for name, kind, word in rows}
    assert table == {name: (m.combination, private(m)) for name, m in METHODS.items()}


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_experiment_of_the_page_describes_its_rows(size) -> None:
    rows = load_rows("experiments/privacy/compared.yaml", [f"size={size}", "seeds=[0]"])
    kinds = [(r.privacy.secure is not None, r.privacy.dp is not None) for r in rows]
    assert kinds == [(False, False), *[(False, False), (True, False)] * 2, *[(False, True)] * 4, (True, True)]
    page = Path("docs/reproduction/others.md").read_text(encoding="utf-8")
    assert all(f"| {r.row} |" in page for r in rows)
