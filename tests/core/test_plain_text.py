from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.plain_text import plain, shown


def test_control_characters_and_line_ends_are_gone_and_words_stay() -> None:
    assert plain("grüße, 骨折\n\tok") == "grüße, 骨折 ok"
    assert plain("\x1b[2Jred\x07\u202egnp.exe\x9b31m") == "\ufffd[2Jred\ufffd\ufffdgnp.exe\ufffd31m"
    assert plain("a\u2028b\x85c\ud800") == "a b c\ufffd"
    assert plain("x" * 600) == "x" * 499 + "…"


@settings(max_examples=100, derandomize=True)
@given(st.text(st.characters()), st.integers(5, 50))
def test_any_text_becomes_one_line_that_a_file_and_a_terminal_take(text, most) -> None:
    line = plain(text, most)
    assert len(line) <= most
    assert line.isprintable()
    line.encode()


def test_a_value_is_shown_in_few_words() -> None:
    values = (1.5, None, True, "x\n" * 100, 10**4000, 10**5000, [1] * 10**6, {"a": {}})
    assert all(len(shown(v)) <= 62 for v in values)
    assert shown(10**5000) == "a whole number of more than 64 bits"
