"""Pictures, voices and questions out of Debian's tuxpaint-stamps-default and espeak-ng, for machines without a hub.

Run: python scripts/offline_data.py [FOLDER] [--only PART ...] [--list]
Writes FOLDER/stamps and FOLDER/data/<name> (FOLDER is `real` if not named); what is there is skipped.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it sees scripts/ alone

from scripts.offline import animals, pictures, silos_by_kind, speech, stamp_classes, texts, voices
from scripts.offline.fetch import has_apt
from scripts.offline.packages import STAMPS
from scripts.offline.parts import Part, command, parser
from scripts.offline.stamps import FOLDER


def moved(unpacked: Path, folder: Path) -> None:
    """The stamps alone, and their licence beside them."""
    folder.rmdir()
    shutil.move(unpacked / FOLDER, folder)
    shutil.copyfile(
        unpacked / "usr/share/doc" / STAMPS.name / "copyright", folder.parent / "stamps-copyright.txt"
    )


def of_stamps(make: Callable[[Path, Path], str]) -> Callable[[Path, Path], str]:
    """A part that is made of the stamps."""
    return lambda unpacked, folder: make(_real(folder) / "stamps", folder)


def spoken_digits(unpacked: Path, folder: Path) -> str:
    """Digits by espeak-ng."""
    return speech.make_digits(_espeak(folder), folder)


def spoken_names(unpacked: Path, folder: Path) -> str:
    """Names of animals by espeak-ng."""
    return speech.make_names(_espeak(folder), _real(folder) / "stamps", folder)


def silos(unpacked: Path, folder: Path) -> str:
    """Silos of pictures, of voices and of text."""
    return silos_by_kind.make(_espeak(folder), _real(folder) / "stamps", folder)


def pair(unpacked: Path, folder: Path) -> str:
    """A pair of real towers, aligned on the public pictures of data/classes."""
    from scripts.offline import align_pair  # transformers takes seconds

    models = folder.parent
    vision, text = (str(models / name) for name in ("vision", "minilm"))
    return align_pair.make(vision, text, _real(folder) / "data/classes/public", folder)


def _real(folder: Path) -> Path:
    return folder.parent.parent


def _espeak(folder: Path) -> speech.Espeak:
    return speech.Espeak(_real(folder) / "espeak-ng", _real(folder) / "downloads")


DESCRIPTION = "Real pictures and voices out of packages of Debian."
ESPEAK = "espeak-ng where the machine has none: Debian espeak-ng and its libraries, 5 MB, GPL-3"
PARTS = [
    Part("stamps", (STAMPS,), moved, "785 pictures with captions and thousands of voices, of Tux Paint"),
    Part("data/pictures", (), of_stamps(pictures.make), "photographs and drawings by category"),
    Part("data/digits", (), of_stamps(voices.make_digits), "digits said by people, by language"),
    Part("data/names", (), of_stamps(voices.make_names), "names of animals said by people, by language"),
    Part("data/questions", (), of_stamps(texts.make), "questions in words about the same things"),
    Part(
        "data/animals", (), of_stamps(animals.make), "four silos of animals, for experiments/real/stamps.yaml"
    ),
    Part(
        "data/uniflow",
        (),
        silos,
        "silos of pictures, voices and text, for experiments/real/uniflow.yaml",
        ESPEAK,
    ),
    Part(
        "data/classes",
        (),
        of_stamps(stamp_classes.make),
        "pictures of 16 categories, for experiments/real/pfedmma.yaml",
    ),
    Part(
        "models/pair",
        (),
        pair,
        "the vision model and MiniLM as a CLIP, aligned on public pictures of data/classes",
    ),
    Part("data/digits-synthetic", (), spoken_digits, "digits said by espeak-ng", ESPEAK),
    Part("data/names-synthetic", (), spoken_names, "names of animals said by espeak-ng", ESPEAK),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the parts, or say why there are none here."""
    given, _ = parser(DESCRIPTION, PARTS).parse_known_args(arguments)
    if given.list or (given.folder / "stamps").exists() or has_apt():
        return command(DESCRIPTION, PARTS, arguments)
    print(
        f"there is no apt-get here, so no pictures and voices: unpack usr/share/tuxpaint/stamps of Debian's {STAMPS.name} to "
        f"{given.folder / 'stamps'}, install espeak-ng, and run again. The models are complete without them."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
