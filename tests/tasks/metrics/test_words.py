"""Normal forms and words: worked examples, and properties for texts in any script."""

import math
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedloom.tasks.metrics import bleu, exact_match, rouge_l, sentence_bleu, token_f1
from fedloom.tasks.metrics.words import normalise, words

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
SCORES = (exact_match, token_f1, rouge_l, sentence_bleu)
ALPHABETS = (
    "abcé the",
    "骨折肺叶",
    "ひらカター",
    "กระดูก็",
    "ລາວ",
    "ខ្មែរ",
    "မြန်မာ",
    "نعمأ",
    "हिन्दी",
    "한국어",
    "Ωλς",
    "Иё",
)
IN_A_SCRIPT = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(f"{letters} ,.。-5", max_size=12))
ANY = st.one_of(IN_A_SCRIPT, st.text(max_size=12))
NUMBERS = st.decimals(-(10**7), 10**7, allow_nan=False, places=3).map(lambda d: f"{d.normalize():f}")


def with_a_word(text: str) -> bool:
    return any(unicodedata.category(letter)[0] in "LN" for letter in normalise(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5", "15"),
        ("-5", "5"),
        ("−5", "5"),
        (".5", "5"),
        ("1/2", "12"),
        ("10:30", "1030"),
        ("3-5", "35"),
        ("1,5", "15"),
        ("1½", "11/2"),
        ("10²", "102"),
        ("10⁻⁵", "10-5"),
        ("1e-5", "1e5"),
        ("<5", ">5"),
        ("< 5", "> 5"),
        ("1..5", "15"),
        ("-$5", "$5"),
        ("骨折", "骨"),
        ("no", "not"),
    ],
)
def test_different_answers(one: str, other: str) -> None:
    assert exact_match([one, other], [other, one]) == [0, 0]
    assert token_f1([one], [other]) != [1]
    assert rouge_l([one], [other]) != [1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("骨折", "骨折。"),
        ("「はい」", "はい"),
        ("¿Sí?", "sí"),
        ("1,000", "1000"),
        ("1,234,567.8", "1234567.8"),
        ("5.", "5"),
        ("(-5)", "-5"),
        ("−5", "-5"),
        ("3–5", "3-5"),
        ("½", "1/2"),
        ("５", "5"),
        ("ﬁne", "Fine"),
        ("Straße", "STRASSE"),
        ("A red cube!", "the red cube"),
        ("$5", "5"),
        ("5%", "5"),
        ("< 5", "<5"),
        ("≤5", "<=5"),
        ("\u2066yes\u2069", "yes"),
    ],
)
def test_equal_answers(one: str, other: str) -> None:
    assert exact_match([one, other], [other, one]) == [1, 1]
    assert token_f1([one], [other]) == [1]


def test_words_of_mixed_text() -> None:
    assert words("CTで1.5cmの影") == ["ct", "で", "1.5cm", "の", "影"]
    assert words("กระดูกหัก") == ["ก", "ร", "ะ", "ดู", "ก", "หั", "ก"]
    assert words("The dog's well-known tricks.") == ["the", "dog", "s", "well", "known", "tricks"]
    assert words("?") == ["?"]
    assert words(" \u200b") == []


@PROPERTY
@given(ANY)
def test_a_text_matches_itself(text: str) -> None:
    assume(with_a_word(text))
    for score in SCORES:
        assert score([text], [text]) == [pytest.approx(1)]
    assert bleu([text], [text]).score == pytest.approx(1, nan_ok=True) or math.isnan(
        bleu([text], [text]).score
    )


@PROPERTY
@given(ANY, ANY)
def test_scores_lie_in_their_range_and_exact_match_is_symmetric(one: str, other: str) -> None:
    for score in SCORES:
        (value,) = score([one], [other])
        assert 0 <= value <= 1 if words(other) else math.isnan(value)
    assume(words(one) and words(other))
    assert exact_match([one], [other]) == exact_match([other], [one])


@PROPERTY
@given(ANY, ANY)
def test_composed_and_decomposed_spellings_score_alike(one: str, other: str) -> None:
    nfc, nfd = ([unicodedata.normalize(form, text) for text in (one, other)] for form in ("NFC", "NFD"))
    for score in SCORES:
        assert score([nfd[0]], [nfc[1]]) == pytest.approx(score([nfc[0]], [nfc[1]]), nan_ok=True)
        assert score([nfc[0]], [nfd[1]]) == pytest.approx(score([nfc[0]], [nfc[1]]), nan_ok=True)


@PROPERTY
@given(st.lists(st.sampled_from(["Haus", "肺叶", "กระดูก", "نعم", "x5"]), min_size=1, max_size=4), st.data())
def test_punctuation_alone_makes_no_difference(parts: list[str], data: st.DataObject) -> None:
    marks = st.text(",.;:!?。、！？「」¿…؟।\"'()", max_size=3)
    marked = " ".join(data.draw(marks) + part + data.draw(marks) for part in parts)
    assert normalise(marked) == normalise(" ".join(parts))
    assert exact_match([marked], [" ".join(parts)]) == [1]


@PROPERTY
@given(NUMBERS, NUMBERS, st.sampled_from(["{}", "about {}.", "{} cm", "({})", "约{}厘米"]))
def test_different_numbers_are_never_equal(one: str, other: str, frame: str) -> None:
    assume(float(one) != float(other))
    one, other = frame.format(one), frame.format(other)
    assert exact_match([one], [other]) == [0]
    assert token_f1([one], [other])[0] < 1
    assert rouge_l([one], [other])[0] < 1
