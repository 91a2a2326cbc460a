"""YAML as people mean it: `010` is ten, `no` and `1:30` are texts; what no setting can mean is refused with its line.

Refused: a key given twice, infinite and undefined numbers, whole numbers above 64 bits, texts nested deeper than `DEEPEST`,
aliases that stand for more than `LARGEST` values or for themselves, and everything that YAML itself does not allow.
"""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from fedloom.core.errors import ExperimentError

DEEPEST = 100
LARGEST = 1_000_000
"""Largest number of values of one text, aliases written out."""
TAG = "tag:yaml.org,2002:"
MERGE = TAG + "merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, bounded in depth and size.

    Every number here is one for PyYAML too, which quotes texts that look like its numbers: what it writes reads back the same.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own attribute
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; refuses deep nesting, which recursion could not follow."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise _fault(f"it is nested deeper than {DEEPEST} levels", self.peek_event())  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; refuses a key that stands twice. A key beside `<<` may stand in the merged mapping too."""
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Write the mappings under `<<` out, once; refuses a key that stands twice."""
        if not isinstance(node, yaml.MappingNode):
            return super().flatten_mapping(node)
        if getattr(node, "flat", False):
            return None
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise _fault(f"the key {key.value!r} stands twice in one mapping", key)
            if name is not None:
                seen.add(name)
        super().flatten_mapping(node)
        node.flat = True  # type: ignore[attr-defined]
        return None


def _number(loader: _Loader, node: Any) -> int | float:
    """A whole or decimal number, underscores between digits left out."""
    text = node.value.replace("_", "")
    try:
        if node.tag == TAG + "float":
            value: int | float = float(text.replace(".inf", "inf").replace(".nan", "nan").lower())
        else:
            value = int(text, 16) if "x" in text else int(text)
    except ValueError as error:
        raise _fault(f"{node.value[:40]!r} is no number", node) from error
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) >= 2**63):
        raise _fault(f"{node.value[:40]!r} is no number that a setting can have", node)
    return value


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*|0[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+(_[0-9]+)*\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", "<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(TAG + _tag, re.compile(f"(?:{_pattern})$"), list(_first))
_PLAIN = ("null", "bool", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(TAG) in _PLAIN
}
_Loader.add_constructor(TAG + "int", _number)
_Loader.add_constructor(TAG + "float", _number)


class _Refused(yaml.YAMLError):
    """A fault with its line."""


def _fault(says: str, thing: Any) -> _Refused:
    return _Refused(f"line {thing.start_mark.line + 1}: {says}")


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ExperimentError with one sentence, which begins with the line."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ExperimentError(_sentence(error)) from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(node: Any, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """The number of values below a node, aliases written out."""
    if id(node) in open_nodes:
        raise _fault("an alias stands inside the value that it names", node)
    if id(node) not in sizes:
        open_nodes.add(id(node))
        children = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_check_size(child, sizes, open_nodes) for child in children)
        if sizes[id(node)] > LARGEST:
            raise _fault(f"its aliases stand for more than {LARGEST:,} values", node)
        open_nodes.remove(id(node))
    return sizes[id(node)]


def _sentence(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        problem = problem.replace("character '\\t' that cannot start any token", "a tab where a value begins")
        return f"line {mark.line + 1}: {problem}"
    return " ".join(str(error).split())
