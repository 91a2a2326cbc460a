"""The small LMs of all families, written once."""

import pytest

from tests.models.mllm.tiny_llms import (
    FAMILIES,
    config_of,
    write,
)


@pytest.fixture(scope="session")
def llms(tmp_path_factory):
    root = tmp_path_factory.mktemp("llms")
    return {name: write(root / name, config_of(name)) for name in FAMILIES}
