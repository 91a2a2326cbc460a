import itertools
import json

import numpy as np
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import SAMPLE_RATE
from fedloom.data.tabletop import PRIVATE_VOICES, PUBLIC_VOICES, QUESTION_KINDS, SPOKEN_WORDS, Tabletop, speak
from fedloom.data.tabletop.language import words
from fedloom.data.tabletop.scene import COLOURS, SHAPES, SIDES
from fedloom.data.tabletop.speech import BANK, VOICES, bank_index, word_bank

QUESTIONS = [
    *(f"what colour is the {s}" for s in SHAPES),
    *(f"what pattern is the {s}" for s in SHAPES),
    *(f"how big is the {s}" for s in SHAPES),
    *(f"what shape is {c}" for c in COLOURS),
    *(f"what is on the {s}" for s in SIDES),
    *(f"where is the {s}" for s in SHAPES),
    *(f"is there a {c} {s}" for c, s in itertools.product(COLOURS, SHAPES)),
]


def test_the_bank_is_small_complete_and_says_how_it_was_made() -> None:
    assert sum(p.stat().st_size for p in BANK.iterdir()) <= 3_000_000
    index = json.loads((BANK / "index.json").read_text())
    assert index == bank_index()
    assert index["espeak_ng"] == "1.51"
    assert index["sample_rate"] == SAMPLE_RATE
    assert set(index["voices"]) == set(VOICES) == {*PUBLIC_VOICES, *PRIVATE_VOICES}
    for name, voice in VOICES.items():
        assert index["voices"][name]["parameters"] == {
            "espeak": voice.espeak,
            "speed": voice.speed,
            "pitch": voice.pitch,
        }


@pytest.mark.parametrize("voice", list(VOICES))
def test_words_are_complete_short_and_equally_loud(voice: str) -> None:
    bank = word_bank(voice)
    assert set(bank) == set(SPOKEN_WORDS)
    for word, wave in bank.items():
        assert wave.dtype == np.float32
        assert 0.08 < len(wave) / SAMPLE_RATE <= 0.4, word
        assert 0.04 < np.sqrt(np.mean(wave**2)) < 0.085, word
        assert np.abs(wave).max() <= 0.81


@pytest.mark.parametrize("voice", list(VOICES))
def test_every_question_lasts_at_most_2_4_seconds(voice: str) -> None:
    seen = set()
    for i in range(300):
        spoken = Tabletop(0).sample("private", i, "text").question.split(". ")[1]
        seen.add(" ".join(words(spoken)))
    assert seen <= set(QUESTIONS)  # the list below is all that can be asked
    assert len(QUESTION_KINDS) == 7
    for question in QUESTIONS:
        longest = sum(len(word_bank(voice)[w]) for w in question.split()) / SAMPLE_RATE
        longest += 0.06 * (len(question.split()) + 1)
        assert longest <= 2.4, question


def test_speech_is_the_words_in_order_with_pauses_between() -> None:
    wave = speak("is there a red cube?", "ada", seed=5)
    bank = word_bank("ada")
    at = 0
    for word in ("is", "there", "a", "red", "cube"):
        piece = bank[word]
        start = next(i for i in range(at, len(wave)) if wave[i] != 0)
        lead = int(np.flatnonzero(piece)[0])
        heard = wave[start - lead : start - lead + len(piece)]
        level = float(heard @ piece / (piece @ piece))
        assert 0.85 <= level <= 1.15
        np.testing.assert_allclose(heard, level * piece, atol=1e-5)
        assert start - lead - at >= 320
        at = start - lead + len(piece)
    assert 320 <= len(wave) - at < 960


@pytest.mark.parametrize("voice", list(VOICES))
def test_speech_is_pure_and_seeded(voice: str) -> None:
    first = speak("where is the star", voice, 1)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    np.testing.assert_array_equal(first, speak("where is the star", voice, 1))
    second = speak("where is the star", voice, 2)
    assert len(first) != len(second) or not np.array_equal(first, second)


def test_only_private_voices_have_background_noise() -> None:
    for voice, spec in VOICES.items():
        start = speak("what is on the left", voice, 3)[:300]  # before the first word
        rms = float(np.sqrt(np.mean(start**2)))
        assert rms == pytest.approx(spec.noise, rel=0.1)
        assert (spec.noise > 0) == (voice in PRIVATE_VOICES)


def test_mistakes_are_named() -> None:
    with pytest.raises(ExperimentError, match="lacks 'zebra'"):
        speak("where is the zebra", "ada", 0)
    with pytest.raises(ExperimentError, match="no word"):
        speak(" ?", "ada", 0)
    with pytest.raises(ExperimentError, match="voice 'zoe'"):
        speak("where is the cube", "zoe", 0)
