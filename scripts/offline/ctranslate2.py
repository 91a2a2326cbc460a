"""A reader of CTranslate2's `model.bin`.

Little-endian: version u32, name of the kind, revision u32, number of variables u32; then for each variable its name, rank u8,
sizes u32, type u8, bytes u32 and the values. A name is its length u16 and as many bytes, the last of them zero.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import AssetError

TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_MOST, _LONGEST = 100_000, 1_000


def read_variables(path: Path) -> dict[str, NDArray[np.float32]]:
    """All variables in float32. Raises AssetError for a file that is cut or of another form."""
    with path.open("rb") as file:
        try:
            return _variables(file)
        except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
            raise AssetError(f"{path} is no model.bin of CTranslate2, or is cut short ({error}).") from error


def _variables(file: BinaryIO) -> dict[str, NDArray[np.float32]]:
    _read(file, "<I")
    _name(file)
    _, count = _read(file, "<II")
    if count > _MOST:
        raise ValueError(f"{count} variables")
    variables = {}
    for _ in range(count):
        name = _name(file)
        (rank,) = _read(file, "<B")
        sizes = _read(file, f"<{rank}I")
        kind, length = _read(file, "<BI")
        dtype = np.dtype(TYPES[kind])
        if length != math.prod(sizes) * dtype.itemsize:
            raise ValueError(f"{name} has {length} bytes for the sizes {sizes}")
        content = file.read(length)
        variables[name] = np.frombuffer(content, dtype).reshape(sizes).astype(np.float32)
    return variables


def _read(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _name(file: BinaryIO) -> str:
    (length,) = _read(file, "<H")
    if length > _LONGEST:
        raise ValueError(f"a name of {length} bytes")
    return file.read(length).rstrip(b"\0").decode()
