"""Speech: concatenated words of the shipped word bank, which scripts/build_word_bank.py makes with espeak-ng."""

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.sample import SAMPLE_RATE
from fedloom.data.tabletop.language import words

BANK = Path(__file__).parent / "words"
"""The folder with one FLAC file per voice (16 kHz, mono, 16 bit) and index.json."""


@dataclass(frozen=True)
class Voice:
    """espeak-ng's parameters (voice and variant, words per minute, pitch 0-99), and the noise RMS of `speak`."""

    espeak: str
    speed: int
    pitch: int
    noise: float = 0.0


VOICES = {
    "ada": Voice("en-us+f2", 230, 50),
    "ben": Voice("en-gb+m3", 230, 45),
    "cleo": Voice("en-gb-x-rp+f4", 240, 55),
    "dan": Voice("en-us+m7", 220, 50),
    "ewan": Voice("en-gb-scotland+m1", 220, 40, noise=0.003),
    "fay": Voice("en-029+f3", 230, 62, noise=0.004),
    "gus": Voice("en-us-nyc+klatt4", 240, 50, noise=0.003),
    "hana": Voice("en-gb-x-gbcwmd+f5", 250, 60, noise=0.004),
}
PUBLIC_VOICES = ("ada", "ben", "cleo", "dan")
PRIVATE_VOICES = ("ewan", "fay", "gus", "hana")


@lru_cache(maxsize=1)
def bank_index() -> dict[str, Any]:
    """The content of index.json: espeak-ng's version, sample rate; per voice its parameters and word -> [start, stop]."""
    index: dict[str, Any] = json.loads((BANK / "index.json").read_text(encoding="utf-8"))
    return index


@cache
def word_bank(voice: str) -> dict[str, NDArray[np.float32]]:
    """Every word of `voice`: read-only float32 (T,), 16 kHz, cached. ExperimentError for an unknown voice."""
    import soundfile

    if voice not in VOICES:
        raise ExperimentError(f"unknown Tabletop voice {voice!r}; choose one of {', '.join(VOICES)}")
    wave, rate = soundfile.read(BANK / f"{voice}.flac", dtype="float32")
    if rate != SAMPLE_RATE:
        raise ExperimentError(
            f"{BANK / voice}.flac holds {rate} samples a second; rebuild it with {SAMPLE_RATE}"
        )
    wave.flags.writeable = False
    return {word: wave[a:b] for word, (a, b) in bank_index()["voices"][voice]["words"].items()}


def speak(text: str, voice: str, seed: int) -> NDArray[np.float32]:
    """`text` spoken by `voice`: float32 (T,), 16 kHz, in [-1, 1].

    The seed draws the pauses (20-60 ms), each word's level (within 15 %) and the voice's background noise;
    equal arguments give equal bytes. Raises ExperimentError for an unknown voice, a word outside the bank, or
    no word at all.
    """
    bank = word_bank(voice)
    spoken = words(text)
    missing = [w for w in spoken if w not in bank]
    if missing or not spoken:
        raise ExperimentError(
            f"cannot speak {text!r}: "
            + (f"the word bank lacks {', '.join(map(repr, missing))}; " if missing else "it holds no word; ")
            + "use the words of fedloom.data.tabletop.language.SPOKEN_WORDS"
        )
    rng = numpy_stream(seed, "speak", voice, text)
    gaps = rng.integers(SAMPLE_RATE // 50, SAMPLE_RATE * 6 // 100, len(spoken) + 1)
    levels = rng.uniform(0.85, 1.15, len(spoken)).astype(np.float32)
    out = np.zeros(int(gaps.sum()) + sum(len(bank[w]) for w in spoken), np.float32)
    at = int(gaps[0])
    for word, level, gap in zip(spoken, levels, gaps[1:], strict=True):
        wave = bank[word]
        np.multiply(wave, level, out=out[at : at + len(wave)])
        at += len(wave) + int(gap)
    noise = VOICES[voice].noise
    if noise:
        # uniform on [-a, a] has the RMS a / sqrt(3); it is five times cheaper than a normal draw
        out += (rng.random(len(out), dtype=np.float32) - np.float32(0.5)) * np.float32(2 * noise * 3**0.5)
    return np.clip(out, -1, 1, out=out)
