"""The same digits and names spoken by espeak-ng, one table for each language: public data for pre-training."""

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import AssetError
from .fetch import download_debian, has_apt, missing_debian, unpack
from .splits import folds, split_of
from .stamps import stamps, translations
from .tables import write
from .voices import WORDS

LANGUAGES: Mapping[str, str] = {
    "bg": "bg",
    "ca": "ca",
    "de": "de",
    "el": "el",
    "en": "en-us",
    "es": "es",
    "fr": "fr-fr",
    "it": "it",
    "lt": "lt",
    "nl": "nl",
    "pt": "pt",
    "ro": "ro",
    "ru": "ru",
}
"""espeak-ng's language for each of ours: those with ten human digits, or nine."""
NAMED: Mapping[str, str] = {k: LANGUAGES[k] for k in ("bg", "ca", "el", "en", "es", "fr", "ro", "ru")} | {
    "be": "be",
    "da": "da",
}
"""The languages in which people say most names of animals."""


@dataclass(frozen=True)
class Voice:
    """A variant of espeak-ng's voices, its speed in words a minute and its pitch of 0 to 99."""

    variant: str
    speed: int
    pitch: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.variant}-{self.speed}-{self.pitch}"


VOICES = tuple(
    Voice(variant, speed, pitch)
    for variant, speed, pitch in (
        ("m1", 130, 40),
        ("f1", 140, 55),
        ("m3", 165, 50),
        ("f2", 120, 45),
        ("m7", 150, 60),
        ("f4", 175, 65),
        ("m2", 145, 30),
        ("f5", 155, 50),
        ("m4", 125, 55),
        ("f3", 165, 60),
        ("m5", 140, 45),
        ("m8", 160, 35),
    )
)
TESTED = VOICES[-2:]
"""Voices that speak the test digits alone."""


class Espeak:
    """The program: the machine's own, or Debian's packages unpacked into a folder."""

    def __init__(self, folder: Path, downloads: Path) -> None:
        """Raises AssetError where there is neither, and nothing to unpack it with."""
        self._program, self._environment = "espeak-ng", dict(os.environ)
        if shutil.which(self._program):
            return
        if not has_apt():
            raise AssetError(
                "espeak-ng is not installed, and there is no apt-get to download it; install it and run again."
            )
        if not (folder / ".complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            needed = missing_debian(self._program, downloads)
            print(f"  downloading {', '.join(needed)} from Debian, GPL-3 and LGPL, about 5 MB", flush=True)
            for path in download_debian(needed, downloads):
                unpack(path, folder)
            (folder / ".complete").touch()
        data = next((path.parent for path in folder.rglob("phontab")), None)
        program = folder / "usr/bin/espeak-ng"
        if data is None or not program.is_file():
            raise AssetError(f"{folder} holds no espeak-ng; delete it and run again.")
        self._program = str(program.resolve())
        own = {"LD_LIBRARY_PATH": ":".join(library_folders(folder)), "ESPEAK_DATA_PATH": str(data.resolve())}
        self._environment |= own

    def say(self, text: str, language: str, voice: Voice, target: Path) -> None:
        """Write the text as FLAC at the program's 22,050 Hz. Raises AssetError."""
        import soundfile

        options = ["-v", f"{language}+{voice.variant}", "-s", str(voice.speed), "-p", str(voice.pitch)]
        wave = target.with_suffix(".wav")
        done = subprocess.run(
            [self._program, *options, "-w", str(wave), "--", text],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not wave.is_file():
            raise AssetError(f"espeak-ng cannot say {text!r} in {language}: {done.stderr.strip()[:200]}")
        samples, rate = soundfile.read(wave, dtype="int16")
        soundfile.write(target, samples, rate)
        wave.unlink()


def library_folders(folder: Path) -> list[str]:
    """Every folder below that holds shared libraries: some of Debian's packages keep theirs in a folder of their own."""
    return sorted({str(file.parent.resolve()) for file in folder.rglob("*.so*")})


def make_digits(espeak: Espeak, folder: Path, voices: Sequence[Voice] = VOICES) -> str:
    """Write `<language>/metadata.csv` and the sounds beside it; the voices of `TESTED` are for testing."""
    for language, spoken in LANGUAGES.items():
        place, rows = folder / language, []
        place.mkdir(parents=True)
        for voice in voices:
            for digit, word in enumerate(WORDS):
                file = f"{digit}-{voice.name}.flac"
                espeak.say(str(digit), spoken, voice, place / file)
                said = {"file_name": file, "digit": digit, "word": word, "language": language}
                rows.append({**said, "speaker": voice.name, "split": "test" if voice in TESTED else "train"})
        write(place, rows)
    return f"{len(LANGUAGES) * len(voices) * len(WORDS)} digits in {len(LANGUAGES)} languages by {len(voices)} voices"


def make_names(espeak: Espeak, root: Path, folder: Path, voices: Sequence[Voice] = VOICES[:3]) -> str:
    """Write `<language>/metadata.csv` and the sounds beside it: names of animals, split as the pictures are."""
    every = stamps(root)
    fold = folds(every)
    rows = defaultdict(list)
    for stamp in every:
        words = translations(root / f"{stamp.stem}.txt") if stamp.category == "animals" else {}
        for language, spoken in NAMED.items():
            for voice in voices if language in words else ():
                place = folder / language
                place.mkdir(parents=True, exist_ok=True)
                file = f"{stamp.stem.split('/', 1)[1].replace('/', '-')}-{voice.name}.flac"
                espeak.say(words[language], spoken, voice, place / file)
                said = {
                    "file_name": file,
                    "language": language,
                    "said": words[language],
                    "caption": stamp.caption,
                }
                more = {
                    "name": stamp.name,
                    "category": stamp.category,
                    "stem": stamp.stem,
                    "speaker": voice.name,
                }
                rows[place].append(
                    {**said, **more, "fold": fold[stamp.stem], "split": split_of(fold[stamp.stem])}
                )
    for place, listed in rows.items():
        write(place, listed)
    return f"{sum(map(len, rows.values()))} names of animals in {len(rows)} languages by {len(voices)} voices"
