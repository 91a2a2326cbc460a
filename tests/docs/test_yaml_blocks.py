"""Experiments on the pages hold by the schema that editors use."""

import pytest
from jsonschema import Draft7Validator

from fedloom.core.yaml_text import load_yaml
from fedloom.experiment.schema.json_schema import json_schema
from tests.docs.pages import PAGES, Block, blocks

BLOCKS = [b for page in PAGES for b in blocks(page) if b.language == "yaml" and page.name != "deploy.md"]
"""All but a site's own settings in deploy.md."""


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    return Draft7Validator(json_schema())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_an_experiment_on_a_page_has_settings_that_exist(schema: Draft7Validator, block: Block) -> None:
    assert [error.message for error in schema.iter_errors(load_yaml(block.text))] == []
