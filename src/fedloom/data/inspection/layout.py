"""The layout of a folder or table: the source that reads it, and its form in words."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS
from fedloom.data.tables.captions import captioned
from fedloom.data.tables.files import SUBFOLDERS
from fedloom.data.tables.opening import check_one_kind, is_saved, listed_files, named_split, table_files

SPLIT_FILE = "split_*.json"
"""CoOp's list of training and test pictures."""
_RIGHT = (
    "there should be a table (.parquet, .csv, .jsonl), a folder of files and a metadata.jsonl for each client, a .txt beside "
    "every picture or sound, or a folder of pictures or sounds for each class"
)


@dataclass(frozen=True)
class Layout:
    """The source that reads `path`, and its `form` in words; `domains`: the domains of pictures in folders of class folders."""

    source: Literal["table", "folder", "classes"]
    path: Path
    form: str
    domains: tuple[str, ...] = ()


def layout_of(path: Path) -> Layout:
    """The layout of a file or folder. Raises ExperimentError for one that nothing reads, with what would be right."""
    if path.is_file():
        if path.match(SPLIT_FILE):
            return Layout("classes", path, "pictures by class, with a split file")
        return Layout("table", path, "a table")
    if not path.is_dir():
        raise ExperimentError(f"there is no file or folder {path}")
    if is_saved(path):
        return Layout("table", path, "a data set saved by save_to_disk")
    if any(path.glob(SPLIT_FILE)):
        return Layout("classes", path, "pictures by class, with a split file")
    files = listed_files(path)
    if tables := table_files(files):
        return _of_tables(path, tables)
    if captioned(files):
        return Layout("table", path, "pictures or sounds with captions beside them")
    return _of_classes(path, files)


def _of_tables(root: Path, tables: Sequence[Path]) -> Layout:
    """One folder or one file for each client, else the parts of one table."""
    places = {table.relative_to(root).parts for table in tables}
    folders = {parts[0] for parts in places if len(parts) > 1} - set(SUBFOLDERS)
    at_root = [table for table in tables if table.parent == root]
    if not at_root and len(folders) > 1 and not any(map(named_split, folders)):
        return Layout("folder", root, "a folder for each client")
    alone = len(at_root) == len(tables) > 1 and not any(p.is_dir() for p in root.iterdir() if _is_shown(p))
    if alone and not any(named_split(t.stem) or any(c.isdigit() for c in t.stem) for t in at_root):
        return Layout("folder", root, "a table for each client")
    has_metadata = any(table.stem == "metadata" for table in tables)
    return Layout("table", root, "files with a metadata table" if has_metadata else "a table in a folder")


def _of_classes(root: Path, files: Sequence[Path]) -> Layout:
    """Pictures or sounds in a folder for each class."""
    pictures, sounds = (
        [f for f in files if f.suffix.lower() in KINDS[m].suffixes] for m in ("image", "audio")
    )
    media = [*pictures, *sounds]
    if not media:
        raise ExperimentError(f"{root} holds no table, picture or sound that can be read; {_RIGHT}")
    classes = {file.parent for file in media}
    if len({folder.name for folder in classes}) < 2 or root in classes:
        raise ExperimentError(
            f"nothing says what the pictures and sounds in {root} show, such as {media[0].name}; {_RIGHT}"
        )
    check_one_kind(root, media)
    if sounds:
        return Layout("table", root, "sounds by class")
    return Layout("classes", root, "pictures by class", _domains(root, classes))


def _domains(root: Path, classes: set[Path]) -> tuple[str, ...]:
    """The outer folders where every class stands in more than one of them."""
    outer = defaultdict(set)
    for folder in classes:
        parts = folder.relative_to(root).parts
        outer[parts[-1]].add(parts[0] if len(parts) == 2 else "")
    names = {name for own in outer.values() for name in own}
    if "" in names or any(map(named_split, names)) or any(len(own) < 2 for own in outer.values()):
        return ()
    return tuple(sorted(names))


def _is_shown(path: Path) -> bool:
    return not path.name.startswith((".", "_"))
