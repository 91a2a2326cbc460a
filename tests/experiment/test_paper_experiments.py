"""The files of experiments/uniflow, and the second axis of an experiment file that they use."""

from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.experiment.study import place
from fedloom.methods import METHODS

UNIFLOW = Path("experiments/uniflow")
M5 = ["LoRA", "FFA-LoRA", "FedSA-LoRA", "FedEx-LoRA", "FedA²-LoRA"]
TWICE = ["none", *(name for m in M5 for name in (m, f"{m} II"))]
FIFTEEN = [
    *("LoRA", "FFA-LoRA", "FedDPA-LoRA", "FedSA-LoRA", "FedA²-LoRA"),
    *("rsLoRA", "FFA-rsLoRA", "FedDPA-rsLoRA", "FedSA-rsLoRA", "FedA²-rsLoRA"),
    *("VeRA", "FFA-VeRA", "FedDPA-VeRA", "FedSA-VeRA", "FedA²-VeRA"),
]
MODES = ("strict", "always", "relative", "centred")
ROWS = {
    "table1": TWICE,
    "table2": TWICE,
    "table3": TWICE,
    "table4": FIFTEEN,
    "table8": TWICE,
    "table9": ["LoRA", "FFA-LoRA", "FedSA-LoRA", "FedEx-LoRA, dense", "FedEx-LoRA, factors", "FedA²-LoRA"],
    "table10": [
        *("none", "LoRA, zero padding", "FedA²-LoRA, zero padding"),
        *("FedA²-LoRA, rescaled", "FlexLoRA"),
    ],
    "table11": ["none", *M5],
    "table12": ["LoRA", "FedA²-LoRA λ=0", *(f"{m} λ={v}" for v in ("0.1", "1") for m in MODES)],
    "table13": ["none", "LoRA", "FedA²-LoRA", "FedA²-LoRA II"],
    "table14": ["none", "LoRA", "FedA²-LoRA", "FedA²-LoRA reverse", "FedA²-LoRA II"],
    "table15": ["none", "LoRA", "FedA²-LoRA", "FedA²-LoRA by rounds", "FedA²-LoRA II"],
    "table16": FIFTEEN,
    "fig3a": [f"{m} λ={v}" for v in ("0", "0.01", "0.1", "1", "10") for m in MODES],
    "fig3b": [f"τ={v}" for v in ("0", "0.25", "0.5", "0.75", "1")],
    "fig3c": [f"N_C={n}" for n in (5, 10, 15, 20, 25)],
    "fig4": ["LoRA", "LoRA, own first A"],
    "fig5": ["FedA²-LoRA", "FedA²-rsLoRA", "FedA²-VeRA"],
    "cases": ["base", "LoRA", "FedA²-LoRA II"],
}
GLUE = ["mnli", "rte", "sst2", "qqp"]


def rows_of(name: str, size: str) -> list[Experiment]:
    return load_rows(UNIFLOW / f"{name}.yaml", [f"size={size}"])


def test_every_table_and_figure_has_its_file() -> None:
    regimes = {"regimes", "regimes_own_a", "regimes_corners", "regimes_modality"}
    own = {"quickstart", "attacks", "stages", "family"} | regimes
    assert {p.stem for p in UNIFLOW.glob("*.yaml")} == {*ROWS, *own}


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", ROWS)
def test_a_file_has_the_papers_rows_in_every_size(name: str, size: str) -> None:
    runs = rows_of(name, size)
    assert list(dict.fromkeys(run.row for run in runs)) == ROWS[name]
    assert len({place(run) for run in runs}) == len(runs), "every run has a folder of its own"
    assert {run.name for run in runs} == {name}
    assert all(run.columns for run in runs)
    for run in runs:
        assert run.method.name != "fedsa-lora" or run.method.unseen == "mean_b"  # type: ignore[attr-defined]
        assert (run.rounds == 0) == (run.row in ("none", "base"))


@pytest.mark.parametrize("name", ["table4", "table16", "fig5", "fig3a"])
def test_text_tables_take_small_tasks_at_tiny_and_glue_above(name: str) -> None:
    tiny, paper = rows_of(name, "tiny"), rows_of(name, "paper")
    count = 3 if name == "fig3a" else 4
    assert list(dict.fromkeys(r.data.task for r in tiny)) == ["entailment", "follows", "warm", "same"][:count]
    assert list(dict.fromkeys(r.data.task for r in paper)) == GLUE[:count]
    assert {r.model.classifier for r in paper} == {"FacebookAI/roberta-large"}
    assert {r.rounds for r in paper} == ({200} if name == "table16" else {1000})
    warm = {r.row for r in paper if r.method.warm_start is not None}
    told = {r for r in ROWS[name] if r and (r.startswith("FedA²") or name == "fig3a")}
    assert warm == (set() if name == "table16" else told)


@pytest.mark.parametrize("name", ["table4", "table16", "fig5", "fig3a"])
def test_glue_files_deal_whole_sets_and_give_vera_the_rates_of_its_release(name: str) -> None:
    for run in rows_of(name, "paper"):
        assert (run.data.train, run.data.test, run.data.partition.kind) == (None, None, "dirichlet")
    for run in [*rows_of(name, "small"), *rows_of(name, "paper")]:
        training, vera = run.training, run.model.body_lora.kind == "vera"
        told = (training.optimizer, training.lr, training.rates, training.lr_schedule, training.clip)
        of_vera = ("adamw", 0.02, {"head": 0.0001}, "run_constant", None)
        assert told == (of_vera if vera else ("sgd", 0.02, {}, "constant", None))
        assert not vera or training.warmup == 0.06


def test_the_ridge_study_shows_every_mode_and_what_it_does_to_the_norm() -> None:
    one_stage = rows_of("table12", "tiny")[0]
    assert (one_stage.row, one_stage.training.schedule) == ("LoRA", "simultaneous")
    for name in ("table12", "fig3a"):
        runs = rows_of(name, "tiny")
        assert {"norm_ratio", "restoration_error", "restoration_error_before", "change_norm"} <= {
            *runs[0].columns
        }
        found = {(r.method.mode, r.method.ridge) for r in runs if r.method.name == "feda2-lora"}  # type: ignore[attr-defined]
        assert {(mode, ridge) for mode in MODES for ridge in (0.1, 1.0)} <= found


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
def test_the_map_of_regimes_has_every_method_in_every_cell(size: str) -> None:
    runs = rows_of("regimes", size)
    methods = {"fedavg-lora", "feda2-lora", "fedex-lora", "flexlora"}
    cells: dict[str, set[str]] = {}
    for run in runs:
        cells.setdefault(str(run.across), set()).add(run.method.name)
        assert run.coordinates is not None
        lora = run.model.body_lora
        assert run.data.source_name() != "text" or lora.alpha / lora.rank == 2
    assert all(found == methods for found in cells.values())
    assert len(cells) == {"tiny": 36, "small": 36, "paper": 30}[size]
    assert len({place(run) for run in runs}) == len(runs)


def test_the_maps_on_texts_are_the_product_of_budgets_first_a_and_label_skew() -> None:
    def budget(run: Experiment) -> tuple[object, ...]:
        return run.training.steps, run.training.lr, run.model.body_lora, run.method.name

    first = [run for run in rows_of("regimes", "tiny") if str(run.across).startswith("local steps")]
    corners: dict[object, list[Experiment]] = {}
    for run in [*first, *rows_of("regimes_own_a", "tiny"), *rows_of("regimes_corners", "tiny")]:
        corners.setdefault((run.cohort.start, run.data.dirichlet), []).append(run)
    assert set(corners) == {(A, skew) for A in ("common", "own") for skew in (None, 0.3)}
    for runs in corners.values():
        assert [budget(run) for run in runs] == [budget(run) for run in first]
    apart = {"name", "description", "row", "across", "coordinates", "training", "model", "cohort", "data"}
    one, *others = [runs[0].model_dump(exclude=apart | {"columns"}) for runs in corners.values()]
    assert all(other == one for other in others)


def test_the_map_of_modality_skew_is_a_product_at_other_budgets() -> None:
    def divided(run: Experiment) -> tuple[object, ...]:
        return str(run.data.clients), run.cohort.start

    def kept(run: Experiment) -> dict[str, object]:
        budget = {
            "training": {"lr"},
            "model": {"llm_lora", "encoder_lora", "body_lora"},
            "cohort": True,
            "data": {"clients"},
        }
        apart = dict.fromkeys(["name", "description", "across", "coordinates", "columns"], True) | budget
        return run.model_dump(exclude=apart)

    first = [run for run in rows_of("regimes", "tiny") if str(run.across).startswith("modality")]
    runs = rows_of("regimes_modality", "tiny")
    cells = {(*divided(run), run.training.lr, run.model.llm_lora.rank, run.method.name) for run in runs}
    assert len(runs) == len(cells) == 2 * 2 * 2 * 2 * 4
    ends = {divided(run) for run in first if "half" not in str(run.across)}
    assert {divided(run) for run in runs} == ends
    like = {run.method.name: kept(run) for run in first}
    for run in runs:
        assert kept(run) == like[run.method.name]
        for lora in (run.model.llm_lora, run.model.encoder_lora):
            assert lora.alpha / lora.rank == first[0].model.llm_lora.alpha / first[0].model.llm_lora.rank


def test_the_family_has_every_lora_method_that_makes_one_adapter_for_all() -> None:
    """FedSA keeps B at home, FedDPA and FDLoRA train a second adapter: they answer another question."""
    lora = {name for name, m in METHODS.items() if any("lora" in pattern for pattern in m.shares.shared)}
    runs = rows_of("family", "tiny")
    assert {run.method.name for run in runs} == lora - {"fedsa-lora", "feddpa-lora", "fdlora"}
    assert {run.data.dirichlet for run in runs} == {None, 0.3}


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
def test_figure_4_shows_the_factors_and_the_directions_of_change(size: str) -> None:
    factors, changes = {"cosine_A", "cosine_B"}, {"cosine_change_A", "cosine_change_B", "cosine_change"}
    assert all(factors | changes <= set(run.columns) for run in rows_of("fig4", size))


def test_two_stages_have_one_budget_in_steps_and_one_in_operations() -> None:
    one, *rest = rows_of("stages", "tiny")
    steps = {(run.training.tau, str(run.row).endswith("compute")): run.training.steps for run in rest}
    assert {steps[tau, False] for tau, _ in steps} == {one.training.steps} == {40}
    costs = {"encoder": 0.984, "LLM": 0.884}  # scripts/step_cost.py
    for (tau, by_compute), count in steps.items():
        share = tau * costs["encoder"] + (1 - tau) * costs["LLM"]
        assert not by_compute or abs(count * share - 40) <= 0.5


def test_the_number_of_clients_is_split_between_images_and_speech() -> None:
    runs = rows_of("fig3c", "tiny")
    assert [(r.data.clients["image"], r.data.clients["audio"]) for r in runs] == [
        (3, 2),
        (5, 5),
        (8, 7),
        (10, 10),
        (13, 12),
    ]


@pytest.mark.parametrize(
    ("name", "row"), [("table3", "FedSA-LoRA II"), ("table4", "FedDPA-VeRA"), ("table10", "FlexLoRA")]
)
def test_a_row_of_the_tiny_size_can_be_built(name: str, row: str) -> None:
    overrides = ["rounds=1", "data.train=8", "data.test=4"]
    run = load_rows(UNIFLOW / f"{name}.yaml", overrides, only=[row])[0]
    federation = build(run, None, lambda told: None)
    assert len(federation.clients) == {"table3": 4, "table4": 3, "table10": 5}[name]
    assert federation.evaluator.tests.samples


def write(folder: Path, text: str) -> Path:
    path = folder / "e.yaml"
    path.write_text(text)
    return path


TWO_AXES = """
method: fedavg-lora
data: {source: text, clients: {text: 2}, train: 5}
rows: {a: {}, b: {rounds: 7}}
across:
  one: {data.task: follows, data.train: 6, rounds: 5}
  two: {data.task: warm}
seeds: [0, 1]
sizes:
  small: {data.train: 9, rounds: 3}
  paper: {across: {RTE: {data.task: rte}}, seeds: [4], rows: {c: {}}}
"""


def test_rows_stand_across_columns_and_seeds(tmp_path: Path) -> None:
    path = write(tmp_path, TWO_AXES)
    runs = load_rows(path)
    assert [(r.row, r.across, r.seed) for r in runs] == [
        *(("a", "one", 0), ("a", "one", 1), ("a", "two", 0), ("a", "two", 1)),
        *(("b", "one", 0), ("b", "one", 1), ("b", "two", 0), ("b", "two", 1)),
    ]
    assert [place(r) for r in runs][:3] == ["a/one/seed-0", "a/one/seed-1", "a/two/seed-0"]
    assert [r.row for r in load_rows(path, only=["b"])] == ["b"] * 4


def test_the_column_wins_over_the_size_and_the_row_over_the_column(tmp_path: Path) -> None:
    runs = {(r.row, r.across): r for r in load_rows(write(tmp_path, TWO_AXES), ["size=small", "seed=0"])}
    assert (runs["a", "one"].data.train, runs["a", "two"].data.train) == (6, 9)
    assert [runs[key].rounds for key in (("a", "one"), ("a", "two"), ("b", "one"))] == [5, 3, 7]
    assert runs["a", "one"].data.task == "follows"


def test_a_size_may_bring_axes_of_its_own(tmp_path: Path) -> None:
    runs = load_rows(write(tmp_path, TWO_AXES), ["size=paper"])
    assert [(r.row, r.across, r.seed, r.data.task) for r in runs] == [("c", "RTE", 4, "rte")]


def test_a_resolved_run_keeps_its_column(tmp_path: Path) -> None:
    import yaml

    first = load_rows(write(tmp_path, TWO_AXES))[2]
    again = load_rows(write(tmp_path, yaml.safe_dump(first.as_dict())))
    assert again == [first]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("across: [a]", "across must map a column's name"),
        ("across: {a: 3}", "across must map a column's name"),
        ("across: {1: {}, '1': {}}", "a name of its own"),
        ("sizes: [tiny]", "sizes must map"),
        ("sizes: {tiny: {rows: [a]}}", "rows must map"),
        ("columns: 3", "columns"),
    ],
)
def test_a_mistake_in_the_axes_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as caught:
        load_rows(write(tmp_path, f"method: feda2-lora\n{text}"))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
