from pathlib import Path

import pytest

from fedloom.models.mllm.load import foundation_folder
from fedloom.models.sources import hub_id, public_name


@pytest.mark.parametrize("source", ["org/a-model_1.5", "gpt2"])
def test_a_name_of_the_hub_is_public(source: str) -> None:
    assert hub_id(source) == public_name(source) == source


def test_a_folder_is_known_by_its_last_name(tmp_path: Path) -> None:
    (tmp_path / "smollm2").mkdir()
    for source in (tmp_path / "smollm2", tmp_path / "gone"):
        assert hub_id(str(source)) is None
        assert public_name(str(source)) == f"path/to/{source.name}"
    assert hub_id("tiny-roberta") is None
    assert public_name(str(foundation_folder("tiny-mllm") / "llm")) == "path/to/tiny-mllm/llm"
