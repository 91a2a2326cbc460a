"""The settings reference: every field with its meaning, as the page in docs/ has it."""

from pathlib import Path

from pydantic import Field

from fedloom.experiment.schema.json_schema import leaf
from fedloom.experiment.schema.kinds import kinds
from fedloom.experiment.schema.page import page
from fedloom.experiment.schema.readers import read_by
from fedloom.experiment.schema.words import default_in_words, type_in_words
from fedloom.experiment.settings import Experiment
from fedloom.federation.settings import Cohort
from fedloom.methods.base.server_optimizer import ServerStep
from fedloom.models.settings import Foundation
from fedloom.models.training.settings import Training

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: fedloom schema --markdown > docs/settings.md"


def test_every_field_stands_on_the_page_with_a_meaning() -> None:
    text = PAGE.read_text("utf-8")

    def check(annotation: object, place: str) -> int:
        count = 0
        for name, group in kinds(annotation).items():
            for part, field in group.model_fields.items():
                whole = f"{place}.{part}" if place else part
                if part not in ("kind", "source") or not name:
                    assert f"| `{whole}` |" in text or f"\n## `{whole}`\n" in text
                    count += 1
                count += check(field.annotation, whole)
        return count

    assert check(Experiment, "") > 500
    rows = [line.replace("\\|", "").split("|") for line in text.splitlines() if line.startswith("| `")]
    assert all(cell.strip() for cells in rows for cell in cells[1:-1])


def test_types_ranges_and_defaults_in_words() -> None:
    fields = Training.model_fields
    assert type_in_words(leaf(fields["lr"])) == "number > 0"
    assert type_in_words(leaf(fields["momentum"])) == "number ≥ 0, < 1"
    assert type_in_words(leaf(fields["steps"])) == "whole number ≥ 1 or none"
    assert type_in_words(leaf(fields["betas"])) == "list of 2: number each"
    assert type_in_words(leaf(fields["rates"])) == "mapping: name to number > 0"
    assert type_in_words(leaf(fields["one_pass"])) == "true or false"
    assert type_in_words(leaf(fields["optimizer"])) == "`adamw` or `sgd`"
    ranks = type_in_words(leaf(Cohort.model_fields["ranks"]))
    assert ranks == "mapping: `encoder`, `llm` or `body` to list: whole number ≥ 1"
    defaults = [default_in_words(fields[n]) for n in ("lr", "steps", "betas", "rates", "one_pass")]
    assert defaults == ["0.002", "none", "[0.9, 0.95]", "{}", "false"]
    assert default_in_words(Field(annotation=int)) == "required"


def test_readers_in_words() -> None:
    fields = Training.model_fields
    assert read_by("training.lr", fields["lr"]) == "every run"
    assert read_by("training.tau", fields["tau"]) == (
        "question-answering; only with `training.schedule: two_stage or reverse`"
    )
    clip = read_by("model.clip", Foundation.model_fields["clip"])
    assert clip == "image-classification; methods `fedmmkt`, `fedmd`, `feddf`, `creamfl`"
    lr = read_by("method.server.lr", ServerStep.model_fields["lr"])
    assert lr.startswith("every run, but not with the method `fdlora`, the method `local-only`")
