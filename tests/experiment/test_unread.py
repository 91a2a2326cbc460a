"""A setting that nothing reads is refused by its name, wherever it was set."""

from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.methods import METHODS
from fedloom.models.settings import Foundation
from fedloom.models.training.settings import Training
from fedloom.tasks.evaluation import Evaluation
from fedloom.tasks.registry import TASKS

TABLETOP = {"method": "feda2-lora"}
TEXT = {"method": "fedavg-lora", "data": {"source": "text"}}
CLASSES = {"method": "promptfl", "data": {"source": "classes"}}
LABELLED = {"method": "fedmmkt", "data": {"source": "labelled"}}
SOUNDS_OF_FILES = {
    "method": "local-only",
    "data": {"source": "labelled", "path": "x", "clients": {"audio": 2, "text": 2}},
}
"""Sounds and texts are made of the pictures before the run."""


@pytest.mark.parametrize(
    ("base", "setting", "says"),
    [
        (
            {**TABLETOP, "data": {"source": "tabletop"}},
            "data.path=x",
            "data.path is not read by source tabletop",
        ),
        (TABLETOP, "data.dataset=x", "data.dataset is not read by source tabletop"),
        (TABLETOP, "model.clip=x", "model.clip is not read by the task question-answering"),
        (TABLETOP, "model.classifier=x", "the task classification or text-classification does"),
        (TABLETOP, "model.width=32", "model.width is not read"),
        (TABLETOP, "model.body_lora={rank: 2}", "model.body_lora.rank is not read"),
        (TABLETOP, "model.synthesis.steps=2", "model.synthesis.steps is not read"),
        (TABLETOP, "method.head=personal", "method.head is not read"),
        (TABLETOP, "cohort.alpha=fixed", "cohort.alpha is read only with cohort.ranks"),
        (TABLETOP, "training.momentum=0.5", "only with training.optimizer: sgd"),
        (TABLETOP, "training.warmup=0.1", "only with training.lr_schedule: run_cosine"),
        (TABLETOP, "method.tail=pad", "only with cohort.ranks"),
        (CLASSES, "evaluation.diagnostics=2", "evaluation.diagnostics is not read"),
        (
            {**TABLETOP, "privacy": {"secure": {}}},
            "evaluation.diagnostics=off",
            "evaluation.diagnostics is read only with privacy that shows the server single replies",
        ),
        (TABLETOP, "engine.loaders=2", "engine.loaders is read only with samples from files"),
        (TABLETOP, "engine.cache=0", "engine.cache is read only with samples from files"),
        (CLASSES, "engine.loaders=2", "engine.loaders is read only with samples from files"),
        (LABELLED, "engine.cache=0", "engine.cache is read only with samples from files"),
        (SOUNDS_OF_FILES, "engine.loaders=2", "engine.loaders is read only with samples from files"),
        (TEXT, "engine.loaders=2", "engine.loaders is not read by the task text-classification"),
        (TEXT, "model.llm_lora.rank=2", "model.llm_lora.rank is not read"),
        (TEXT, "training.tau=0.5", "training.tau is not read"),
        (TEXT, "evaluation.max_new_tokens=3", "evaluation.max_new_tokens is not read"),
        (TEXT, "data.path=x", "data.path is read only with data.task: mnli"),
        (CLASSES, "model.llm=x", "model.llm is not read"),
        (CLASSES, "evaluation.loss=true", "evaluation.loss is not read"),
        (CLASSES, "data.path=x", "data.path is read only with data.dataset other than tabletop"),
        (CLASSES, "data={dataset: digits, train: 3}", "data.train is read only with data.dataset: tabletop"),
        (CLASSES, "data={dataset: digits, styles: [fog]}", "data.styles is read only"),
        (LABELLED, "evaluation.loss=true", "evaluation.loss is not read"),
        (LABELLED, "engine.dtype=bfloat16", "engine.dtype is not read"),
        (LABELLED, "method.weights=examples", "method.weights is not read"),
        ({**LABELLED, "method": "local-only"}, "model.synthesis.steps=2", "with method local-only"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_by_name(tmp_path: Path, base, setting, says) -> None:
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(base))
    with pytest.raises(ExperimentError) as caught:
        load_rows(tmp_path / "e.yaml", [setting])
    assert says in str(caught.value)


def test_loaders_are_read_where_media_are_files_and_refused_for_a_table_of_texts(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("question,label\nwhy?,yes\nhow?,no\n")
    fields = {"method": "fedavg-lora", "data": {"path": str(table)}, "engine": {"loaders": 2}}
    with pytest.raises(ExperimentError, match=r"engine\.loaders is read only with samples from files"):
        Experiment.parse(fields)
    table.write_text("image,label\na.png,yes\nb.png,no\n")
    assert Experiment.parse(fields).task.name == "classification"
    for base in (CLASSES, LABELLED):
        data = {**base["data"], "dataset": "mine", "path": str(tmp_path)}
        assert Experiment.parse({**base, "data": data, "engine": {"loaders": 2}}).engine.loaders == 2


def test_the_cache_is_read_where_an_encoder_that_nothing_trains_has_features() -> None:
    frozen = {**TABLETOP, "training": {"tau": 0.0}}
    for base in (frozen, CLASSES, {**CLASSES, "method": "fedotp"}):
        assert Experiment.parse({**base, "engine": {"cache": 7}}).engine.cache == 7
        with pytest.raises(ExperimentError, match=r"engine\.cache is read only with samples from files"):
            Experiment.parse({**base, "engine": {"cache": 7, "reuse": False}})


def test_a_row_alone_is_refused_and_a_table_shares_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    shared = "method: fedavg-lora\ntraining: {tau: 0.5, schedule: simultaneous}\n"
    file.write_text(f"{shared}rows: {{a: {{}}, b: {{training.schedule: two_stage}}}}\n")
    assert len(load_rows(file)) == 2
    file.write_text(f"{shared}rows: {{a: {{}}, b: {{}}}}\n")
    with pytest.raises(ExperimentError, match=r"training\.tau is read only with"):
        load_rows(file)
    file.write_text(f"{shared}rows: {{b: {{training.schedule: two_stage}}, c: {{training.rho: 0.25}}}}\n")
    with pytest.raises(ExperimentError, match=r"training\.rho is read only with"):
        load_rows(file)


def test_a_record_is_read_as_it_was_and_a_default_is_no_mistake() -> None:
    plain = Experiment.parse({**TABLETOP, "model": {"width": 64}}).as_dict()
    assert Experiment.parse(plain).as_dict() == plain
    plain["model"]["clip"] = "some"
    assert Experiment.from_record(plain, "a record").model.clip == "some"
    with pytest.raises(ExperimentError, match=r"model\.clip is not read"):
        Experiment.parse(plain)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "mine"}, "names the method mine, which is not registered; is its plug-in installed"),
        ({"data": {"source": "mine"}}, "names the source mine"),
        ({"privacy": {"robust": {"kind": "mine"}}}, "names the robust rule mine"),
    ],
)
def test_a_record_whose_plug_in_is_missing_says_so(changes, says) -> None:
    record = {**TABLETOP, "method": {"name": "fedavg-lora"}, **changes}
    if record["method"] == "mine":
        record["method"] = {"name": "mine"}
    with pytest.raises(ExperimentError, match=says):
        Experiment.from_record(record, "runs/q/experiment.yaml")


def test_every_declared_setting_exists() -> None:
    """A task's or a method's declaration names settings; one that was renamed would refuse what is read."""
    groups = {"model": Foundation, "training": Training, "evaluation": Evaluation}
    for kind in (*TASKS.values(), *METHODS.values()):
        for pattern in kind.reads:
            group, _, name = pattern.partition(".")
            if group in groups:
                fields = groups[group].model_fields
                assert name.rstrip("*").split(".")[0] in fields, pattern
    read = {p.rstrip("*").rstrip(".") for kind in (*TASKS.values(), *METHODS.values()) for p in kind.reads}
    for group, kind in groups.items():
        unread = {n for n in kind.model_fields if f"{group}.{n}" not in read}
        assert not unread, "some task or method reads every setting"


def test_a_classifiers_adapter_has_its_own_defaults() -> None:
    [part] = Experiment.parse({**TEXT, "model": {"body_lora": {"rank": 2}}}).adapters().values()
    assert (part.rank, part.alpha, part.targets) == (2, 16.0, "auto")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"method": {"name": "fedavg-lora", "personal": ["encodr.*"]}}, "no tensor is called encodr")],
)
def test_a_pattern_that_names_nothing_is_refused_before_training(quick, settings, says) -> None:
    with pytest.raises(ExperimentError, match=says):
        build(quick(settings["method"], data={"clients": {"text": 2}, "train": 2, "test": 1}), None, print)
