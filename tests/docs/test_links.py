"""Links between pages, to files and to headings hold, on GitHub as in the site."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, ROOT, prose

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?!\w+:)([^)\s]*)\)|<img[^>]*src=\"(?!\w+:)([^\"]+)\"")


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = re.sub(r"[*_]{1,2}(\S.*?\S|\S)[*_]{1,2}(?=\W|$)", r"\1", plain) if "`" not in plain else plain
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The anchors of a page: of its headings, a repeated one with a number, and those set by hand."""
    text = prose(page)
    found: dict[str, int] = {}
    names = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)?$", text, re.M):
        name = slug(heading)
        names.add(name if name not in found else f"{name}-{found[name]}")
        found[name] = found.get(name, 0) + 1
    return names


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for m in LINK.finditer(text):
        link = m[1] or m[2] or ""
        path, _, anchor = unquote(link).partition("#")
        target = page if not path else (page.parent / path).resolve()
        if (
            not target.exists()
            or ROOT not in (target, *target.parents)
            or (anchor and (target.suffix != ".md" or anchor not in anchors(target)))
        ):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_holds(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "b.md").write_text(
        "# One `two`: *three*\n\n## Twice\n\n## Twice\n\n```\n# not a heading\n```\n"
    )
    page = tmp_path / "a.md"
    page.write_text(
        "[x](b.md) [x](b.md#one-two-three) [x](b.md#twice-1) [x](https://example.org) `[x](no.md)`\n"
        "[x](c.md) [x](b.md#not-a-heading) ![x](b.png) [x](#here) [x](b.md#twice-2)\n"
    )
    assert broken(page) == ["c.md", "b.md#not-a-heading", "b.png", "#here", "b.md#twice-2"]
