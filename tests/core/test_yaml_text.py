import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.core.yaml_text import load_yaml

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("1_0", 10),
        ("-3", -3),
        ("0x1F", 31),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("2024-01-01", "2024-01-01"),
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
    ],
)
def test_a_scalar_is_what_people_mean(text: str, value: object) -> None:
    read = load_yaml(text)
    assert read == value
    assert type(read) is type(value)


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a: {b: 1, 'b': 2}", "line 1: the key 'b' stands twice"),
        ("a: 1\nb: .inf", "line 2: '.inf' is no number"),
        ("a: -.INF", "is no number"),
        ("a: .nan", "is no number"),
        ("a: 1.0e+999", "is no number"),
        ("a: 99999999999999999999", "is no number"),
        ("a: " + "9" * 5000, "is no number"),
        ("[" * 3000, "nested deeper than 100"),
        ("{a: " * 3000, "nested deeper than 100"),
        ("- " * 300, "nested deeper than 100"),
        (BOMB, "stand for more than 1,000,000 values"),
        ("a: &x [*x]", "stands inside the value that it names"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a:\n\t- 1", "line 2: found a tab where a value begins"),
        ("{[a]: 1}", "unhashable key"),
        ("a: \0", "unacceptable character"),
        ("a: {b", "line 1"),
        ("--- 1\n--- 2", "another document"),
    ],
)
def test_what_no_setting_can_mean_is_one_sentence_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        load_yaml(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(VALUES)
def test_what_a_run_writes_reads_back_equal(value: object) -> None:
    assert load_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789_.+-eExXinfatrueofyNs:~<&*!{}[],# \t\n\"'a", max_size=24))
def test_any_text_is_a_bounded_value_or_one_sentence(text: str) -> None:
    fault, value = "", None
    try:
        value = load_yaml(text)
    except ExperimentError as error:
        fault = str(error)
    assert "\n" not in fault
    if isinstance(value, float):
        assert math.isfinite(value)
