"""Hooks of the documentation site (mkdocs.yml): pages that lie outside docs/, notebooks as pages, patterns in the navigation.

A link means on GitHub what it means in the site: `../CONTRIBUTING.md` leads to the page made of that file, `../src/...` and
other files of the repository to a copy below `files/`, and a notebook to the page made of it.
"""

import base64
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site by the file of the repository that they are made of."""
COPIES = "files"
LINK = re.compile(r"(?<=\]\()(?!\w+:|[#/])([^)#\s]+)(?=[)#])")
NOTE = re.compile(r"\A(?:<!--.*?-->\s*)+", re.S)
"""A comment above the title, which would hide the title from the navigation."""
FENCED = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def on_config(config: Any) -> Any:
    """Replace patterns in the navigation by the pages that match."""
    named = {page for page in _leaves(config.nav) if "*" not in page}
    docs = Path(config.docs_dir)
    pages = sorted(
        p.relative_to(docs).as_posix() for kind in ("md", "ipynb") for p in docs.rglob(f"*.{kind}")
    )
    free = [page for page in pages if page not in named]
    config.nav = _expanded(config.nav, free)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/, and make pages of notebooks."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        files.remove(file)
        markdown, pictures = notebook(Path(file.abs_src_path), PurePosixPath(file.src_uri).stem)
        files.append(File.generated(config, _page(file.src_uri), content=markdown))
        folder = PurePosixPath(file.src_uri).parent
        for name, content in pictures.items():
            files.append(File.generated(config, str(folder / name), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links at the pages and copies of the site."""
    from mkdocs.structure.files import File

    markdown = NOTE.sub("", markdown)
    sources = {page_uri: source for source, page_uri in PAGES.items()}
    uri = page.file.src_uri
    here = PurePosixPath(sources.get(uri, f"docs/{uri}")).parent

    def link(match: re.Match[str]) -> str:
        path = _in_folder(os.path.normpath(here / match[1]))
        target = PAGES.get(path) or (_page(path[5:]) if path.startswith("docs/") else None)
        if target is None and (ROOT / path).is_file():
            target = f"{COPIES}/{path}"
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, content=(ROOT / path).read_bytes()))
        return match[1] if target is None else os.path.relpath(target, PurePosixPath(uri).parent)

    kept = [(m.start(), m.end()) for m in FENCED.finditer(markdown)]
    parts, end = [], 0
    for start, stop in kept:
        parts += [LINK.sub(link, markdown[end:start]), markdown[start:stop]]
        end = stop
    return "".join([*parts, LINK.sub(link, markdown[end:])])


def notebook(path: Path, stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output]({name})")
            elif shown := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _in_folder(path: str) -> str:
    """The page that stands for a folder of pages: its README, else the first one; any other path as it is."""
    folder = ROOT / path
    if not folder.is_dir() or ROOT / "docs" not in folder.parents:
        return path
    pages = sorted(p.name for p in folder.iterdir() if p.suffix in (".md", ".ipynb"))
    return f"{path}/{'README.md' if 'README.md' in pages else pages[0]}" if pages else path


def _page(path: str) -> str:
    """The page of a file below docs/: a notebook's has another ending."""
    return f"{path.removesuffix('.ipynb')}.md" if path.endswith(".ipynb") else path


def _leaves(nav: Any) -> list[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in _leaves(part)]


def _expanded(nav: Any, free: list[str]) -> Any:
    """The navigation with the free pages in place of patterns."""
    if isinstance(nav, dict):
        return {title: _expanded(part, free) for title, part in nav.items()}
    if not isinstance(nav, list):
        return nav
    listed: list[Any] = []
    for part in nav:
        if isinstance(part, str) and "*" in part:
            listed += [_page(p) for p in free if fnmatch(p, part) and p.count("/") == part.count("/")]
        else:
            listed.append(_expanded(part, free))
    return listed
