"""Names of frozen models as others can read them: a Hugging Face id, or a folder by its own name without its place."""

import re
from pathlib import Path

from fedloom.models.load import shipped

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def hub_id(source: str) -> str | None:
    """The source as a Hugging Face id; None for a folder of this machine and for a model of the package."""
    local = Path(source).exists() or source in {name for name, _, _ in shipped()}
    return source if _ID.fullmatch(source) and not local else None


def public_name(source: str) -> str:
    """The Hugging Face id, or `path/to/` and the last name of a folder; of a foundation's part the foundation's name, too."""
    if (known := hub_id(source)) is not None:
        return known
    folder = Path(source)
    parts = [p for p in (folder.parent, folder.parent.parent) if (p / "mllm.json").is_file()]
    return f"path/to/{folder.relative_to(parts[0].parent) if parts else folder.name}"
