"""Python on the pages: it compiles, what it imports exists, and so does every name of `fl`."""

import ast
import importlib
import importlib.util

import pytest

import fedloom
from tests.docs.pages import PAGES, Block, blocks

BLOCKS = [
    b for page in PAGES for b in blocks(page) if b.language in ("python", "py") and page.name != "api.md"
]


def faults(text: str) -> list[str]:
    """The imports and names of `fl` that do not exist. Raises SyntaxError."""
    wrong = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            wrong += [a.name for a in node.names if not there(a.name)]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if not there(node.module):
                wrong.append(node.module)
            elif importlib.util.find_spec(node.module.partition(".")[0]):
                module = importlib.import_module(node.module)
                wrong += [f"{node.module}.{a.name}" for a in node.names if not has(module, a.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of_fedloom = node.value.id in ("fl", "fedloom")
            wrong += (
                [f"{node.value.id}.{node.attr}"] if of_fedloom and not hasattr(fedloom, node.attr) else []
            )
    return wrong


def there(module: str) -> bool:
    """Whether a module exists; one of another distribution may be missing here."""
    return module.partition(".")[0] != "fedloom" or importlib.util.find_spec(module) is not None


def has(module: object, name: str) -> bool:
    return hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}") is not None


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_python_on_a_page_compiles_and_imports_what_exists(block: Block) -> None:
    assert faults(block.text) == []


def test_what_does_not_exist_is_found() -> None:
    assert faults("import fedloom.nothing\nfrom fedloom.methods import Nothing, Method\nfl.ruin(x)") == [
        "fedloom.nothing",
        "fedloom.methods.Nothing",
        "fl.ruin",
    ]
