"""Experiments on the pages hold by the schema that editors use."""

import pytest
from jsonschema import Draft7Validator

from fedloom.core.yaml_text import load_yaml
from fedloom.experiment.schema.json_schema import json_schema
from tests.docs.pages import PAGES, ROOT, Block, blocks, executed

APART = [ROOT / "docs" / "deploy.md", *executed()]
"""A site's own settings, and experiments with a method that their page writes."""
BLOCKS = [b for page in PAGES if page not in APART for b in blocks(page) if b.language == "yaml"]


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    return Draft7Validator(json_schema())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_an_experiment_on_a_page_has_settings_that_exist(schema: Draft7Validator, block: Block) -> None:
    assert [error.message for error in schema.iter_errors(load_yaml(block.text))] == []
