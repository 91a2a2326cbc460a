"""Captions, groups and splits of the stamps, and the tables that are made of them; all on tiny files."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from scripts.offline import pictures, speech, texts, voices
from scripts.offline.splits import FOLDS, dealt, folds, groups
from scripts.offline.stamps import Stamp, clean, first_line, stamps, translations


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("A frog.", "A frog."),
        ("An albino peahen (a female peafowl, or peacock).", "An albino peahen."),
        ("Tux—the Linux mascot!", "Tux."),
        ("Tux and spider - two friends.", "Tux and spider - two friends."),
        ("A wheelie bin! Give me your trash!", "A wheelie bin."),
        ("A “Fuji” apple.", 'A "Fuji" apple.'),
        ("Adenium (Desert Rose)", "Adenium."),
        ("– Because a brain is", "Because a brain is."),
        ("Fire! Fire! Fire!", "Fire."),
        ("", ""),
        ("!", ""),
    ],
)
def test_a_caption_is_its_first_statement(line, caption) -> None:
    assert clean(line) == caption


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stamps of four things, one of them drawn, with a letter beside them and a mirrored picture without caption."""
    captions = {
        "animals/frogs/frog": "A frog.\nfr.utf8=Une grenouille.\nru.utf8=\nde.utf8=Ein Frosch (grün).",
        "animals/frogs/frog-1": "A frog!",
        "animals/cartoon/bee": "A bee.",
        "vehicles/truck": "A truck.",
        "vehicles/truck_mirror": "",
        "symbols/alphabets/a": "The letter A.",
    }
    for stem, text in captions.items():
        path = tmp_path / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 10, 4), np.uint8)).save(path)  # black, and transparent everywhere
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return tmp_path


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800, np.float32), 8000)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_things_with_a_caption_are_found_by_folder(root) -> None:
    found = {s.stem: s for s in stamps(root)}
    assert set(found) == {
        "animals/cartoon/bee",
        "animals/frogs/frog",
        "animals/frogs/frog-1",
        "vehicles/truck",
    }
    bee, frog = found["animals/cartoon/bee"], found["animals/frogs/frog"]
    assert (bee.style, bee.kind, bee.category) == ("drawing", "", "animals")
    assert (frog.style, frog.kind, frog.name) == ("photograph", "frogs", "frog")


def test_translations_leave_out_empty_ones(root) -> None:
    text = root / "animals/frogs/frog.txt"
    assert translations(text) == {"en": "A frog.", "fr": "Une grenouille.", "de": "Ein Frosch."}
    assert first_line(root / "nothing.txt") == ""


def test_things_that_may_be_the_same_have_one_group() -> None:
    listed = [
        Stamp("animals/frog-1", "A frog."),
        Stamp("animals/frog", "The frog."),
        Stamp("animals/fish/cep-2", "Two ceps."),
        Stamp("animals/fish/cep", "A red cep."),
        Stamp("animals/fish/cep-3", "A FROG 2."),
        Stamp("animals/toad", "A toad."),
    ]
    found = groups(listed)
    assert len({found[s.stem] for s in listed[:5]}) == 1
    assert found["animals/toad"] == "animals/toad"
    assert groups(listed[::-1]) == found
    assert len({folds(listed)[s.stem] for s in listed[:5]}) == 1


def test_folds_follow_from_names_alone_and_are_of_every_kind() -> None:
    names = [f"thing/{k}" for k in range(200)]
    many = [
        Stamp(f"{n}-x", f"{'abcdefghij'[k % 10]}{'klmnopqrst'[k // 10 % 10]}{'uv'[k // 100]}.")
        for k, n in enumerate(names)
    ]
    found = folds(many)
    assert set(found.values()) == set(range(FOLDS))
    assert folds(many[:7]) == {s.stem: found[s.stem] for s in many[:7]}
    sizes = [list(dealt(names[:10]).values()).count(f) for f in range(FOLDS)]
    assert sizes == [2] * FOLDS


def test_pictures_are_square_on_white_with_a_row_each(root, tmp_path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    assert pictures.make(root, target).startswith("3 photographs and 1 drawings; 2 that")
    [truck] = rows(target / "photographs/vehicles/metadata.csv")
    assert (truck["caption"], truck["category"], truck["label"]) == ("A truck.", "vehicles", "")
    frogs = rows(target / "photographs/animals/metadata.csv")
    assert len(frogs) == 2
    assert len({(f["split"], f["group"]) for f in frogs}) == 1
    with Image.open(target / "photographs/vehicles" / truck["file_name"]) as picture:
        assert (picture.size, picture.mode) == ((10, 10), "RGB")
        assert np.asarray(picture).min() == 255


@pytest.mark.parametrize(
    ("stem", "digit"),
    [
        ("7", voices.Digit(7, "en", "en")),
        ("7_fr", voices.Digit(7, "fr", "fr")),
        ("7_en_GB", voices.Digit(7, "en", "en_GB")),
        ("7_desc_fr", voices.Digit(7, "fr", "desc_fr")),
        ("10", None),
        ("plus_fr", None),
    ],
)
def test_digits_are_told_by_their_file_names(stem, digit) -> None:
    assert voices.digit_of(stem) == digit


def test_digits_and_names_of_people_are_tables_by_language(root, tmp_path) -> None:
    for k in range(10):
        sound(root / f"symbols/math/{k}_en_GB.ogg")
        sound(root / f"symbols/math/{k}.ogg")
    for ending in ("", "_fr", "_xx"):  # the last one has no translation
        sound(root / f"animals/frogs/frog_desc{ending}.ogg")
    digits, names = tmp_path / "digits", tmp_path / "names"
    voices.make_digits(root, digits)
    voices.make_names(root, names)
    listed = rows(digits / "en/metadata.csv")
    assert {(r["speaker"], r["split"]): 0 for r in listed}.keys() == {
        (s, p) for s in ("en", "en_GB") for p in ("train", "test")
    }
    assert sum(r["split"] == "test" for r in listed) == 4
    assert all(r["word"] == voices.WORDS[int(r["digit"])] for r in listed)
    assert sorted(p.name for p in names.iterdir()) == ["en", "fr"]
    [french] = rows(names / "fr/metadata.csv")
    assert (french["said"], french["caption"], french["stem"]) == (
        "Une grenouille.",
        "A frog.",
        "animals/frogs/frog",
    )
    assert (names / "fr" / french["file_name"]).is_file()


def test_synthetic_digits_hold_voices_back(tmp_path) -> None:
    class Silent:
        def say(self, text, language, voice, target) -> None:
            target.touch()

    speech.make_digits(Silent(), tmp_path)
    for language in speech.LANGUAGES:
        listed = rows(tmp_path / language / "metadata.csv")
        tested = {r["speaker"] for r in listed if r["split"] == "test"}
        assert tested == {v.name for v in speech.TESTED}
        assert len(listed) == 10 * len(speech.VOICES)


def test_questions_have_true_answers_and_stay_with_their_thing(root, tmp_path) -> None:
    texts.make(root, tmp_path)
    listed = rows(tmp_path / "questions.csv")
    assert {r["stem"] for r in listed} == {"animals/frogs/frog-1", "vehicles/truck"}, (
        "equal captions once, drawings not"
    )
    for row in listed:
        if row["question"].startswith("which"):
            assert row["answer"] in row["question"].split(": ")[1]
    answers = {r["question"]: r["answer"] for r in listed}
    assert answers["is a truck a vehicle?"] == "yes"
    assert answers["what kind of thing is a frog?"] == "an animal"
    assert [a for q, a in answers.items() if q.startswith("is ")].count("no") == 2


def test_four_choices_are_four_things_of_which_one_is_right() -> None:
    kinds = ("animals", "food", "plants", "vehicles", "household")
    known = [Stamp(f"{c}/{k}", f"A {c} number {'abcd'[k]}.") for c in kinds for k in range(4)]
    for stamp in known:
        question, answer = texts.questions(stamp, known)[3]
        choices = question.split(": ")[1].rstrip("?").replace(" or ", ", ").split(", ")
        assert len(set(choices)) == 4
        assert [c for c in choices if stamp.category in c] == [answer]


def test_unpacked_programs_find_libraries_in_folders_of_their_own(tmp_path) -> None:
    """Debian's libpulse keeps one in `pulseaudio/`, where the loader looks only if it is told."""
    own = tmp_path / "usr/lib/x86_64-linux-gnu"
    for name in ("libespeak-ng.so.1", "pulseaudio/libpulsecommon-16.1.so", "espeak-ng-data/phontab"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    assert speech.library_folders(tmp_path) == [str(own), str(own / "pulseaudio")]
