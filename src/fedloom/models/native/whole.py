"""A whole native model as a folder: its weights, and its processor's files as the checkpoint has them."""

import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.merged import SHARD

_BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Files of a processor and of a licence."""
_OWN = ("config.json", "generation_config.json", "*.index.json", "adapter_config.json")
"""Files that describe the weights, which the model itself writes."""


def save_whole(model: Any, source: str, folder: Path) -> None:
    """Write `model`, and the processor's files of the checkpoint `source` that it came from.

    They are copied: the processor at work may be a stand-in without a part for video.
    """
    from transformers.utils import cached_file

    with quiet_hf():
        model.save_pretrained(folder, max_shard_size=SHARD)
    with loading("model.native", source):
        origin = Path(str(cached_file(source, "config.json"))).parent
    for file in sorted(p for p in origin.iterdir() if p.is_file()):
        if _any(file.name, _BESIDE) and not _any(file.name, _OWN):
            shutil.copyfile(file, folder / file.name)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
