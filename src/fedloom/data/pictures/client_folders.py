"""Pictures of clients that share a class list: `<client>/<class>/<image>`, or `<client>/train|test/<class>/<image>`.

`common/<class>/<image>` holds test pictures for every client's model. A client may lack classes; none may lie outside the list.
"""

from collections.abc import Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.data.media import DEFAULT, Media, MediaSettings
from fedloom.data.pictures.class_names import Classes, class_words
from fedloom.data.pictures.folder import is_picture
from fedloom.data.pictures.pictures import Picture, Pictures, held_back

COMMON = "common"
"""The folder of the common test pictures, which is no client's."""


def read_client_folders(
    root: Path, classes: Classes, share: float, seed: int, settings: MediaSettings = DEFAULT
) -> Pictures:
    """The clients' pictures, of base classes alone; a picture's domain is its client's name.

    Without train and test folders a seeded `share` of each client's classes is held back for testing. Raises ExperimentError for
    a folder without clients, and for a class outside the list.
    """
    clients = [p for p in _folders(root) if p.name != COMMON] if root.is_dir() else []
    if not clients:
        raise ExperimentError(
            f"data.path: {root} holds no client; right is a folder for each client in it, with a folder for each class"
        )
    train: list[Picture] = []
    test: list[Picture] = []
    for client in clients:
        parts = [client / "train", client / "test"]
        if all(p.is_dir() for p in parts):
            own = tuple(tuple(_listed(part, classes.base, root, settings, client.name)) for part in parts)
            kept, held = own
        else:
            kept, held = held_back(_listed(client, classes.base, root, settings, client.name), share, seed)
        train += kept
        test += held
    if not train and not test:
        raise ExperimentError(
            f"data.path: {' and '.join(str(c) for c in clients[:3])} "
            f"{'holds' if len(clients) == 1 else 'hold'} no folder of a class; right is {clients[0]}/<class>/<image>"
        )
    return Pictures((*classes.base, *classes.novel), tuple(train), tuple(test))


def read_common(root: Path, classes: Classes, settings: MediaSettings = DEFAULT) -> list[Picture]:
    """The common test pictures below `root`; none where there is no such folder. Raises ExperimentError."""
    place = root / COMMON
    return _listed(place, (*classes.base, *classes.novel), root, settings, None) if place.is_dir() else []


def _listed(
    place: Path, names: Sequence[str], root: Path, settings: MediaSettings, client: str | None
) -> list[Picture]:
    """The pictures in class folders, sorted by class and name; a picture's label is its class's place in `names`."""
    pictures: list[Picture] = []
    for folder in _folders(place):
        name = class_words(folder.name)
        if name not in names:
            raise ExperimentError(
                f"data.path: {folder} is none of the {len(names)} classes agreed on in data.partition "
                f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}); rename it, take it away, or agree on it"
            )
        files = sorted(p for p in folder.rglob("*") if is_picture(p))
        if not files:
            raise ExperimentError(f"data.path: {folder} holds no picture; leave the class out, or fill it")
        pictures += [
            Picture.of(f.relative_to(root).as_posix(), names.index(name), Media("image", f, settings), client)
            for f in files
        ]
    return pictures


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
