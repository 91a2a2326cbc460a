"""pyproject.toml declares every third-party package that `src` imports, and no other."""

import ast
import re
import sys
from pathlib import Path

import fedloom

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCE = Path(fedloom.__file__).parent
MODULES = {
    "PyYAML": "yaml",
    "Pillow": "PIL",
    "scikit-learn": "sklearn",
    "pycryptodome": "Crypto",
    "mlflow-skinny": "mlflow",
}
UNUSED_BY_SOURCE = {"bench", "dev", "docs"}
"""Extras of the benchmarks, the tests and the documentation."""
USED_BY_OTHERS = {"accelerate", "bitsandbytes", "sqlalchemy", "alembic"}
"""Packages of an extra that transformers and MLflow import for us."""


def modules(requirements: list[str]) -> set[str]:
    """The top-level modules of requirements such as `rouge-score>=0.1.2`."""
    names = [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    if (
        isinstance(node, ast.Call) and getattr(node.func, "id", "") == "needed"
    ):  # imports the module of that name
        return [ast.literal_eval(node.args[0])]
    return []


def third_party(nodes) -> set[str]:
    names = {name.split(".")[0] for node in nodes for name in imported(node)}
    return names - set(sys.stdlib_module_names) - {"fedloom"}


def declared() -> tuple[set[str], set[str]]:
    """The modules of the dependencies, and those of the extras that `src` uses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {n: v for n, v in project["optional-dependencies"].items() if n not in UNUSED_BY_SOURCE}
    return modules(project["dependencies"]), {m for v in extras.values() for m in modules(v)}


def test_declared_and_imported_packages_are_the_same() -> None:
    base, optional = declared()
    used = third_party(n for f in SOURCE.rglob("*.py") for n in ast.walk(ast.parse(f.read_text("utf-8"))))
    assert sorted(used - base - optional) == [], "imported, not declared"
    assert sorted((base | optional) - used - USED_BY_OTHERS) == [], "declared, not imported"


def test_without_extras_the_extras_modules_load_lazily() -> None:
    """Modules that import an extra's package at the top belong to the folder that needs the extra."""
    base, _ = declared()
    for file in SOURCE.rglob("*.py"):
        if file.relative_to(SOURCE).parts[0] not in ("deploy", "privacy"):
            top = third_party(ast.parse(file.read_text("utf-8")).body)
            assert sorted(top - base) == [], file
