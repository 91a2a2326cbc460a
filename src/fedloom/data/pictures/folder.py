"""Image folders: `<class>/<image>`, `train|test/<class>/<image>`, `<domain>/<class>/<image>`, or a split file.

A split file is CoOp's: `split_*.json` with the lists train, val and test of [path, label, class name]. DomainNet's lists,
`<domain>_train.txt` and `<domain>_test.txt` with lines of `path label`, are read from beside the domains or from splits/.
"""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import find_file
from fedloom.data.media import DEFAULT, KINDS, Media, MediaSettings
from fedloom.data.pictures.class_names import class_words
from fedloom.data.pictures.known_sets import Known
from fedloom.data.pictures.pictures import Picture, Pictures, held_back


def read_folder(
    root: Path, known: Known, share: float, seed: int, *, by_domain: bool, settings: MediaSettings = DEFAULT
) -> Pictures:
    """The pictures under `root`; without a given test part, a seeded `share` of every class is held back for testing.

    Raises ExperimentError for a folder with fewer than two classes, or for an unusable split file.
    """
    if root.is_file() and root.suffix == ".json":
        return _split_file(root, root.parent, settings)
    if not root.is_dir():
        raise ExperimentError(f"data.path: there is no folder {root}; it should hold one folder per class")
    if by_domain:
        return _domains(root, known, share, seed, settings)
    splits = sorted(root.glob("split_*.json"))
    if len(splits) > 1:
        raise ExperimentError(
            f"data.path: {root} holds {len(splits)} split files; name the one that is meant, such as {splits[0]}"
        )
    if splits:
        return _split_file(splits[0], root, settings)
    parts = [root / "train", root / "test"]
    if all(p.is_dir() for p in parts):
        folders = _class_folders(parts[0], known)
        train, test = (_listed(part, folders, root, settings) for part in parts)
        return Pictures(_names(folders), tuple(train), tuple(test))
    folders = _class_folders(root, known)
    return Pictures(_names(folders), *held_back(_listed(root, folders, root, settings), share, seed))


def _class_folders(root: Path, known: Known) -> tuple[str, ...]:
    """The class folders' names, in label order."""
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders = known.folders or tuple(n for n in present if n not in known.dropped)
    spelt = {_same_spelling(n) for n in present}
    if missing := [n for n in folders if _same_spelling(n) not in spelt]:
        raise ExperimentError(f"data.path: {root} lacks the class folder {missing[0]}")
    if len(folders) < 2:
        raise ExperimentError(f"data.path: {root} should hold a folder for each of two or more classes")
    return folders


def _names(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(class_words(f) for f in folders)


def _same_spelling(name: str) -> str:
    """The one spelling of names that differ in how their accents are composed alone."""
    return unicodedata.normalize("NFC", name)


def _listed(
    place: Path, folders: Sequence[str], root: Path, settings: MediaSettings, domain: str | None = None
) -> list[Picture]:
    """All pictures of all classes, sorted by name; hidden and other files are ignored."""
    pictures = []
    for label, folder in enumerate(folders):
        files = sorted(p for p in _found(place, folder).rglob("*") if is_picture(p))
        if not files:
            raise ExperimentError(
                f"data.path: {place / folder} holds no picture; leave the class out, or fill it"
            )
        for file in files:
            media = Media("image", file, settings)
            pictures.append(Picture.of(file.relative_to(root).as_posix(), label, media, domain))
    return pictures


def _found(folder: Path, name: str) -> Path:
    """`find_file`, with its error as ExperimentError."""
    try:
        return find_file(folder, name)
    except ValueError as error:
        raise ExperimentError(f"data.path: {folder / name}: {error}") from error


def is_picture(path: Path) -> bool:
    """Whether a path is a picture's file, and not hidden."""
    return path.suffix.lower() in KINDS["image"].suffixes and not path.name.startswith(".") and path.is_file()


def _domains(root: Path, known: Known, share: float, seed: int, settings: MediaSettings) -> Pictures:
    present = tuple(
        sorted(
            p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "splits"
        )
    )
    domains = known.domains or present
    if len(domains) < 2 or (missing := [d for d in domains if d not in present]):
        lacks = f"lacks the domain {missing[0]}" if len(domains) > 1 else "should hold a folder per domain"
        raise ExperimentError(f"data.path: {root} {lacks}; right is <path>/<domain>/<class>/<image>")
    folders = _class_folders(root / domains[0], known)
    train: list[Picture] = []
    test: list[Picture] = []
    for domain in domains:
        classes = _class_folders(root / domain, Known(folders=folders))
        listed = _listed(root / domain, classes, root, settings, domain)
        lists = [_list_file(root, f"{domain}_{part}.txt") for part in ("train", "test")]
        if lists[0] is None or lists[1] is None:
            a, b = held_back(listed, share, seed)
        else:
            a, b = (
                tuple(p for p in listed if _same_spelling(p.uid) in chosen) for chosen in (lists[0], lists[1])
            )
        train += a
        test += b
    return Pictures(_names(folders), tuple(train), tuple(test), domains)


def _list_file(root: Path, name: str) -> set[str] | None:
    """The paths in a list file, or None if there is no such file."""
    for place in (root, root / "splits"):
        if (place / name).is_file():
            lines = (place / name).read_text(encoding="utf-8").split("\n")
            return {_same_spelling(line.rstrip().rsplit(" ", 1)[0].strip()) for line in lines if line.strip()}
    return None


def _split_file(file: Path, root: Path, settings: MediaSettings) -> Pictures:
    """Train and test part of a split file; its validation part is unused, as in the published few-shot runs."""
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
        train, test = ([(str(p), int(n), str(c)) for p, n, c in parts[k]] for k in ("train", "test"))
        names = {n: c for _, n, c in [*train, *test]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"data.path: {file} is no split file; it should hold the lists train and test of [path, label, class name]"
        ) from error
    if not train or not test or sorted(names) != list(range(len(names))):
        raise ExperimentError(
            f"data.path: {file} should number its classes 0, 1, 2 ... and fill train and test"
        )
    place = _images_of(root, train[0][0], file)

    def listed(rows: Sequence[tuple[str, int, str]]) -> tuple[Picture, ...]:
        return tuple(
            Picture.of(path, label, Media("image", _found(place, path), settings)) for path, label, _ in rows
        )

    return Pictures(tuple(class_words(names[n]) for n in range(len(names))), listed(train), listed(test))


def _images_of(root: Path, first: str, file: Path) -> Path:
    """The folder to which a split file's paths are relative: `root` or one of its folders."""
    for place in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
        if _found(place, first).is_file():
            return place
    raise ExperimentError(
        f"data.path: {file} names {first}, which lies neither in {root} nor in a folder of it"
    )
