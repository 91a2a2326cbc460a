"""Pictures and sounds given in Python as the files that would hold them, so that they pass the checks of files.

A picture: PIL, uint8 array (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W). A sound: int16 array, or floats in [-1, 1], (T,),
(T, C) or (C, T), with its rate. Either may be a file's path or content. Every function raises ValueError with a clause.
"""

import io
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from torch import Tensor

from fedloom.data.media.picture import ORIENTATION
from fedloom.data.media.sources import Source

CHANNELS = (1, 3, 4)
MOST_CHANNELS = 8
"""Channels of a sound; a longer axis is time."""
UNSCALED = 2.0
"""Values of floats beyond which a sound is taken for one in whole numbers."""
_IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture_source(value: Any) -> Source:
    """The file of a picture, or its content as a PNG."""
    if isinstance(value, str | Path | bytes):
        return Path(value) if isinstance(value, str) else value
    picture = value if isinstance(value, Image.Image) else _picture(_array(value, "a picture"))
    turn = picture.getexif().get(ORIENTATION)
    if picture.mode == "F":
        raise ValueError("is a picture of floats, which have no agreed range; give 8 bits a channel")
    if picture.mode == "I":
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("is a grey picture with values outside 0 to 65535")
        picture = Image.fromarray(values.astype(np.uint16))
    elif picture.mode not in _IN_PNG:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    exif = Image.Exif()  # the orientation alone: other tags may be broken
    if turn is not None:
        exif[ORIENTATION] = turn
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1, exif=exif)
    return content.getvalue()


def sound_source(value: Any, rate: Any = None) -> Source:
    """The file of a sound, or its content as a WAV."""
    if isinstance(value, str | Path | bytes):
        if rate is not None:
            raise ValueError("is a file, which states its own rate; leave rate out")
        return Path(value) if isinstance(value, str) else value
    array = _array(value, "a sound")
    if rate is None:
        raise ValueError("is an array, and needs its rate, the samples per second, such as 16000")
    if isinstance(rate, bool) or not isinstance(rate, Integral) or not 0 < int(rate) < 1 << 31:
        raise ValueError(f"has the rate {rate!r}, which should be a whole number of samples per second")
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"has the shape {array.shape}, and a sound has (T,), (T, channels) or (channels, T)")
    if array.ndim == 2:
        few = [size <= MOST_CHANNELS for size in array.shape]
        if sum(few) != 1:
            raise ValueError(
                f"has the shape {array.shape}, which does not tell time from channels; give one channel (T,)"
            )
        array = array.T if few[0] else array
    content = io.BytesIO()
    if array.dtype == np.int16:
        soundfile.write(content, array, int(rate), format="WAV", subtype="PCM_16")
        return content.getvalue()
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"is an array of {array.dtype}; give int16, or floats in [-1, 1]")
    if not np.isfinite(array).all():
        raise ValueError("holds values that are not finite")
    if (loudest := float(np.abs(array).max())) > UNSCALED:
        raise ValueError(
            f"is an array of floats up to {loudest:g}, and floats lie in [-1, 1]; divide it, or give int16"
        )
    soundfile.write(content, array.astype(np.float32), int(rate), format="WAV", subtype="FLOAT")
    return content.getvalue()


def _array(value: Any, kind: str) -> Any:
    """The values as an array of numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"should be {kind}: an array, a file or PIL's picture; and is a {type(value).__name__}"
        )
    return value


def _picture(array: Any) -> Image.Image:
    """uint8 (H, W), channels first or last, as PIL's picture."""
    if array.dtype != np.uint8:
        raise ValueError(f"is an array of {array.dtype}; give uint8 from 0 to 255")
    if array.ndim == 3 and array.size:
        last, first = array.shape[2] in CHANNELS, array.shape[0] in CHANNELS
        if last and first:
            raise ValueError(
                f"has the shape {array.shape}, which does not tell whether channels come first or last; give PIL's picture"
            )
        if last or first:
            array = array if last else array.transpose(1, 2, 0)
            return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))
    if array.ndim == 2 and array.size:
        return Image.fromarray(array)
    raise ValueError(f"has the shape {array.shape}, and a picture has (H, W), (H, W, 3) or (3, H, W)")
