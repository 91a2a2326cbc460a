"""The site's hooks: notebooks as pages, patterns in the navigation."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace

from scripts.site_hooks import notebook, on_config, on_page_markdown


def test_a_notebook_becomes_a_page_with_its_pictures(tmp_path: Path) -> None:
    picture = base64.b64encode(b"png").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "and text"]},
        {
            "cell_type": "code",
            "source": ["x = 1\n", "x"],
            "outputs": [
                {"output_type": "stream", "text": ["one\n", "two\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["1"]}},
                {"output_type": "display_data", "data": {"image/png": picture, "text/plain": "<Figure>"}},
            ],
        },
        {"cell_type": "code", "source": "pass", "outputs": []},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    text, pictures = notebook(tmp_path / "a.ipynb", "a")
    assert text == (
        "# A title\nand text\n\n```python\nx = 1\nx\n```\n\n```text\none\ntwo\n```\n\n```text\n1\n```\n\n"
        "![Output](a-1.png)\n\n```python\npass\n```\n"
    )
    assert pictures == {"a-1.png": b"png"}


def test_a_pattern_stands_for_the_pages_that_are_not_named(tmp_path: Path) -> None:
    for name in ("a.md", "new.md", "b/README.md", "b/2.md", "b/1.md", "c/x.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    nav = ["a.md", {"B": ["b/README.md", "b/*"]}, "c/*", "none/*", "*.md"]
    config = on_config(SimpleNamespace(nav=nav, docs_dir=str(tmp_path)))
    assert config.nav == ["a.md", {"B": ["b/README.md", "b/1.md", "b/2.md"]}, "c/x.md", "new.md"]


def test_links_mean_in_the_site_what_they_mean_in_the_repository() -> None:
    def shown(text: str, uri: str) -> str:
        page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
        return on_page_markdown(text, page, None, None)

    text = "<!-- note -->\n\n# A\n[a](docs/python.md#data) [b](docs/decisions/) [c](CONTRIBUTING.md)\n```\n[x](docs/y.md)\n```\n"
    assert shown(text, "overview.md") == (
        "# A\n[a](python.md#data) [b](decisions/README.md) [c](contributing.md)\n```\n[x](docs/y.md)\n```\n"
    )
    assert shown("[a](../../README.md#two) [b](../python.md) [c](https://x.org)", "methods/uniflow.md") == (
        "[a](../overview.md#two) [b](../python.md) [c](https://x.org)"
    )
