import math
import zipfile
from types import SimpleNamespace

import pytest

from fedloom.tasks.metrics import bleu, exact_match, meteor, normalise, rouge_l, sentence_bleu, token_f1
from fedloom.tasks.metrics.text import find_wordnet

CAT = "the cat sat on the mat"


class Thesaurus:
    """A WordNet with one synonym set."""

    def synsets(self, word):
        names = ["crimson", "red"] if word in ("crimson", "red") else []
        return [SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda n=n: n) for n in names])]


def test_normal_form_keeps_something_to_compare() -> None:
    assert normalise(" The  red, cube. ") == "red cube"
    assert normalise("The") == "the"
    assert exact_match(["The", "?", "!"], ["a", "?", "?"]) == [0, 1, 0]


def test_exact_match_and_f1_worked_by_hand() -> None:
    predictions = ["A red cube!", "a red big cube", "blue", "red red"]
    references = ["red cube", "the red cube", "red", "red"]
    assert exact_match(predictions, references) == [1, 0, 0, 0]
    # precision 2/3 and recall 1 give 0.8; a repeated word counts once against one: 2 * 1 / (2 + 1)
    assert token_f1(predictions, references) == pytest.approx([1, 0.8, 0, 2 / 3])


def test_rouge_l_worked_by_hand() -> None:
    # "the cube red" shares a subsequence of two of three words; precision 1 and recall 1/2 give 2/3
    scores = rouge_l(["the cube red", "red cube", "cubes"], ["the red cube", "the big red cube", "cube"])
    assert scores == pytest.approx([2 / 3, 2 / 3, 0])


def test_corpus_bleu_worked_by_hand() -> None:
    # 5/6, 3/5, 2/4 and 1/3 of the n-grams match
    other = bleu([CAT], ["the cat sat on a mat"])
    assert other.score == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert "tok:13a" in other.signature
    assert "version:" in other.signature
    # all n-grams match, four words for six: brevity exp(1 - 6/4)
    assert bleu(["the cat sat on"], [CAT]).score == pytest.approx(math.exp(-0.5))
    assert bleu([CAT], [CAT]).score == 1


def test_corpus_bleu_pools_counts_instead_of_averaging() -> None:
    pooled = bleu([CAT, "the cat sat on"], ["the cat sat on a mat", CAT]).score
    expected = (9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25 * math.exp(1 - 12 / 10)
    assert pooled == pytest.approx(expected)


def test_corpus_bleu_cannot_measure_short_answers_but_sentence_bleu_can() -> None:
    assert math.isnan(bleu(["red", "a long answer to it"], ["red", "red"]).score)
    assert bleu(["red"], [CAT]).score == 0  # measurable, and wrong
    assert sentence_bleu(["red", "blue"], ["red", "red"]) == [1, 0]
    with pytest.raises(ValueError, match="at least one"):
        bleu([], [])


def test_meteor_exact_worked_by_hand() -> None:
    name, scores = meteor(
        ["the red cube", "red the cube", "Red cube", "red"],
        ["the red cube", "the red cube", "the red cube", "red"],
        wordnet=None,
    )
    assert name == "meteor_exact"
    # one chunk of three; three chunks of three; P 1, R 2/3, F 20/29 and one chunk of two; one word
    assert scores == pytest.approx([1 - 0.5 / 27, 0.5, 20 / 29 * (1 - 0.5 / 8), 0.5])


def test_meteor_has_another_name_when_it_measures_something_else() -> None:
    predictions, references = ["cubes", "crimson"], ["cube", "red"]
    assert meteor(predictions, references, wordnet=None) == ("meteor_exact", [0, 0])
    assert meteor(predictions, references, wordnet=Thesaurus()) == ("meteor", [0.5, 0.5])


def test_missing_wordnet_is_found_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    assert find_wordnet() is None
    assert meteor(["red"], ["red"])[0] == "meteor_exact"


@pytest.mark.parametrize("packed", [False, True])
def test_wordnet_is_found_unpacked_and_packed(packed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    folder = tmp_path / "corpora"
    (folder / "wordnet").mkdir(parents=True)
    if packed:
        (folder / "wordnet").rmdir()
        with zipfile.ZipFile(folder / "wordnet.zip", "w") as archive:
            archive.writestr("wordnet/data.noun", "")
    assert find_wordnet() is not None


@pytest.mark.parametrize("prediction", ["", "  \n"])
def test_an_empty_prediction_scores_zero(prediction) -> None:
    for metric in (exact_match, token_f1, rouge_l, sentence_bleu):
        assert metric([prediction, "red"], ["red", "red"])[0] == 0
    assert meteor([prediction], ["red"])[1] == [0]
    assert bleu([prediction], [CAT]).score == 0
    assert bleu([CAT, prediction], [CAT, CAT]).score == pytest.approx(math.exp(1 - 12 / 6))


@pytest.mark.parametrize("reference", ["", " \n", "\u200b"])
def test_an_empty_reference_cannot_be_measured(reference) -> None:
    for metric in (exact_match, token_f1, rouge_l, sentence_bleu):
        assert all(math.isnan(score) for score in metric(["red", ""], [reference, reference]))
    assert math.isnan(meteor(["red"], [reference])[1][0])
    assert math.isnan(bleu(["red"], [reference]).score)


def test_identical_answers_in_scripts_without_spaces() -> None:
    for text in ("左肺下叶有结节", "กระดูกหักที่แขน", "肺に影があります", "ເດັກນ້ອຍຫຼິ້ນ", "ក្មេងលេង", "ကလေးကစား"):
        assert bleu([text], [text]).score == pytest.approx(1), text
        assert rouge_l([text], [text]) == [1]
        assert token_f1([text], [text]) == [1]
    # three of four letters in common, and of five words with an English one
    assert rouge_l(["左肺结", "左肺 CT 结节"], ["左肺结节", "左肺CT结节"]) == pytest.approx([6 / 7, 1])
    assert bleu(["左肺结节 CT"], ["左肺结节CT"]).score == pytest.approx(1)


def test_unequal_lengths_are_refused() -> None:
    for metric in (exact_match, token_f1, rouge_l, sentence_bleu, bleu, meteor):
        with pytest.raises(ValueError, match="2 predictions but 1 references"):
            metric(["a", "b"], ["a"])
