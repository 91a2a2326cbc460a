"""Checks that one version stands everywhere: pyproject.toml, the package, CITATION.cff, CHANGELOG.md; and the tag, if given.

python scripts/check_version.py [v0.2.0]
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {
    "pyproject.toml": r'^version = "([^"]+)"',
    "src/fedloom/__init__.py": r'^__version__ = "([^"]+)"',
    "CITATION.cff": r"^version: (\S+)",
    "CHANGELOG.md": r"^## (\d\S*)",  # the first that is no "Unreleased"
}


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version by file. Raises ValueError for a file that states none."""
    found = {}
    for name, pattern in PLACES.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if match is None:
            raise ValueError(f"{name} states no version")
        found[name] = match.group(1)
    return found


def fault(found: dict[str, str], tag: str | None) -> str | None:
    """The disagreement between files, or with the tag, as a sentence; None where all agree."""
    version = found["pyproject.toml"]
    for name, other in found.items():
        if other != version:
            return f"pyproject.toml says {version}, and {name} says {other}"
    if tag is not None and tag != f"v{version}":
        return f"the tag is {tag}, and the version is {version}: the tag should be v{version}"
    return None


if __name__ == "__main__":
    said = versions()
    if (wrong := fault(said, sys.argv[1] if len(sys.argv) > 1 else None)) is not None:
        sys.exit(wrong)
    print(said["pyproject.toml"])
