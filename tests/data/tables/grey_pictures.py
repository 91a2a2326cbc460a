"""The grey value of a sample's picture, and the refusal of a table."""

import pytest

from fedloom.core.errors import ExperimentError
from tests.data.tables.tables import rows

ASKED = {"question": "what is it?"}


def grey(sample) -> int:
    """The number of a sample's picture."""
    return int(sample.modalities["image"].unique()) // 10


def refusal(path: object, **fields: object) -> str:
    """The sentence with which a table is refused."""
    with pytest.raises(ExperimentError) as caught:
        rows(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)
