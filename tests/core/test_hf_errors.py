"""Errors of transformers in one sentence."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import LONGEST, loading, reason


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(), "OSError"),
        (ValueError("\n  first \nsecond"), "first"),
        (KeyError("x" * 999), "'" + "x" * (LONGEST - 1) + "..."),
    ],
)
def test_a_reason_is_one_short_line(error: Exception, says: str) -> None:
    assert reason(error) == says


def test_any_error_becomes_one_sentence_about_the_setting_and_our_own_stay() -> None:
    with (
        pytest.raises(ExperimentError, match=r"^model\.llm: a/name cannot be loaded: RuntimeError$"),
        loading("model.llm", "a/name"),
    ):
        raise RuntimeError
    with pytest.raises(ExperimentError, match=r"^ours$"), loading("model.llm", "a/name"):
        raise ExperimentError("ours")
