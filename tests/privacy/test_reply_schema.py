import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.privacy.reply_schema import number_fault

RIGHT = {"round": 3, "examples": 5, "loss": 0.5, "steps": 2}
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_subnormal=False)
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**4000), "\x1b[2J", "x" * 10_000, 1e308]),
    lambda children: (
        st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=3), children, max_size=2)
    ),
    max_leaves=4,
)


def fault(numbers: Any) -> str | None:
    return number_fault(numbers, round=3, max_examples=1000, max_text=200)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"loss": "x"}, "number: loss is 'x', a number is right"),
        ({"loss": None}, "number: loss is None, a number is right"),
        ({"loss": [1]}, "number: loss is a list, a number is right"),
        ({"loss": {"a": 1}}, "number: loss is a nested object, a number is right"),
        ({"loss": True}, "number: loss is True, a number is right"),
        ({"loss": 10**4000}, "number: loss is a whole number of more than 64 bits, a number from"),
        ({"loss": 1e308}, "number: loss is 1e+308, a number from -1e+30 to 1e+30 is right"),
        ({"loss": math.inf}, "not finite: loss is inf"),
        ({"steps": 1.5}, "number: steps is 1.5, a whole number is right"),
        ({"steps": -1}, "number: steps is -1, a number from 0"),
        ({"truncated": "\x1b[2J" * 100}, "number: truncated is "),
        ({"round": True}, "stale: answers round True, this is round 3"),
        ({"round": 3.0}, "stale: answers round 3.0, this is round 3"),
        ({"examples": 10**5000}, "weight: claims a whole number of more than 64 bits examples, at most"),
        ({"other": "\x1b[2J"}, "text: other is"),
        ({"other": "x" * 201}, "text: other is"),
        ({"\x1b": 1}, "numbers: sends the name"),
        ({"other": None}, "number: other is None, a number is right"),
        ({str(i): i for i in range(200)}, "numbers: sends 204, at most 100 are right"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong, reason) -> None:
    assert str(fault({**RIGHT, **wrong})).startswith(reason)


def test_numbers_and_short_texts_of_any_name_pass() -> None:
    assert fault({**RIGHT, "set": 7, "temperature": -0.25, "note": "grüße"}) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from([*RIGHT, "truncated", "other", "\u202e"]), anything)
def test_any_value_is_a_number_in_its_range_a_short_text_or_refused(name, value) -> None:
    reason = fault({**RIGHT, name: value})
    if reason is not None:
        assert len(reason) < 400
        assert reason.isprintable()
    elif name == "other" and isinstance(value, str):
        assert len(value) <= 200
        assert value.isprintable()
    else:
        assert isinstance(value, int | float)
        assert not isinstance(value, bool)
        assert abs(float(value)) <= 1e30
