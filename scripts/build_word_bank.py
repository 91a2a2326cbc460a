"""Speak every word of the Tabletop world with espeak-ng; write one FLAC per voice and index.json.

Run: python scripts/build_word_bank.py [FOLDER]   (needs espeak-ng 1.51 and SciPy)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from fedloom.data.sample import SAMPLE_RATE
from fedloom.data.tabletop.language import SPOKEN_WORDS
from fedloom.data.tabletop.speech import BANK, VOICES, Voice

LONGEST = 0.40  # seconds per word; a longer one is spoken faster
LOUDNESS = 0.08  # RMS of a word
PEAK = 0.8
PAD = 0.008  # seconds kept around the part above the threshold
THRESHOLD = 0.02  # of the word's peak


def espeak(word: str, voice: Voice, speed: int) -> NDArray[np.float64]:
    """One spoken word: trimmed, 16 kHz, normalised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        options = ["-v", voice.espeak, "-s", str(speed), "-p", str(voice.pitch), "-w", str(path)]
        subprocess.run(["espeak-ng", *options, word], check=True)
        wave, rate = soundfile.read(path)
    wave = resample_poly(wave, SAMPLE_RATE // 50, rate // 50)
    loud = np.flatnonzero(np.abs(wave) > THRESHOLD * np.abs(wave).max())
    pad = int(PAD * SAMPLE_RATE)
    wave = wave[max(0, loud[0] - pad) : loud[-1] + pad]
    fade = np.linspace(0, 1, pad)
    wave[:pad] *= fade
    wave[-pad:] *= fade[::-1]
    wave = wave * (LOUDNESS / np.sqrt(np.mean(wave**2)))
    return np.asarray(wave * min(1.0, PEAK / np.abs(wave).max()), np.float64)


def main(folder: Path) -> None:
    """Build the whole bank."""
    folder.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["espeak-ng", "--version"], check=True, capture_output=True, text=True).stdout
    index: dict[str, object] = {
        "espeak_ng": version.split("  ")[0].split(":")[-1].strip(),
        "sample_rate": SAMPLE_RATE,
    }
    voices: dict[str, object] = {}
    for name, voice in VOICES.items():
        pieces, spans, at = [], {}, 0
        for word in SPOKEN_WORDS:
            speed = voice.speed
            wave = espeak(word, voice, speed)
            while len(wave) > LONGEST * SAMPLE_RATE and speed < 420:
                speed += 20
                wave = espeak(word, voice, speed)
            pieces.append(wave)
            spans[word] = [at, at + len(wave)]
            at += len(wave)
        soundfile.write(folder / f"{name}.flac", np.concatenate(pieces), SAMPLE_RATE, subtype="PCM_16")
        parameters = {"espeak": voice.espeak, "speed": voice.speed, "pitch": voice.pitch}
        voices[name] = {"parameters": parameters, "words": spans}
        lengths = [(b - a) / SAMPLE_RATE for a, b in spans.values()]
        longest = max(spans, key=lambda w: spans[w][1] - spans[w][0])
        print(f"{name}: {np.mean(lengths):.3f} s a word, {max(lengths):.3f} s at most ({longest})")
    index["voices"] = voices
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BANK)
