"""Motion traces (accelerometer and gyroscope) from CSV and NPY files, resampled to the project's rate."""

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.data.media.parts import Part, bounds
from fedloom.data.media.settings import MediaSettings
from fedloom.data.media.sources import Decoded, opened
from fedloom.data.media.structure import ENDS_EARLY

IMU_RATE = 400
"""Samples per second of every trace from a file; ImageBind reads 2,000 of 5 seconds."""
CHANNELS = 6
TIMES = ("time", "t", "seconds", "timestamp", "time_s")
"""Names of a column of times in seconds."""
FASTEST = 10_000
"""Highest rate of a trace in Hz; a higher one comes of times in another unit."""
LARGEST = {"acceleration": 2_000.0, "rotation": 200.0}
"""Bounds in m/s^2 and rad/s, beyond every sensor's."""
GAP = 1.0
"""Longest gap between two times in seconds."""
IN_G = "motion whose acceleration is about 1 in size, as in units of g; m/s^2 is meant"
"""The note on a trace in the wrong unit."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Values (T, 6), and their rate in Hz."""

    values: Values
    rate: float


@contextmanager
def open_motion(source: Path | bytes, settings: MediaSettings) -> Iterator[Trace]:
    """The trace at one rate. Raises ValueError for a wrong shape, values or times out of range, or no rate."""
    with opened(source) as file:
        data = file.read()
    rows, timed = _npy(data) if data[:6] == b"\x93NUMPY" else _csv(data)
    if not np.isfinite(rows).all():
        raise ValueError("it holds values that are not finite")
    if len(rows) < 2:
        raise ValueError("it holds fewer than two rows of values")
    values = rows[:, -CHANNELS:]
    for name, part in (("acceleration", values[:, :3]), ("rotation", values[:, 3:])):
        if np.abs(part).max() > LARGEST[name]:
            unit = "m/s^2" if name == "acceleration" else "rad/s"
            raise ValueError(
                f"its {name} reaches {np.abs(part).max():.4g}, and {LARGEST[name]:g} {unit} is the most; the columns are "
                "three of acceleration in m/s^2, then three of rotation in rad/s"
            )
    if timed:
        values, rate = _even(rows[:, 0], values)
    elif settings.imu_rate is None:
        raise ValueError(
            "it has no column of times; give data.media.imu_rate, or a first column `time` in seconds"
        )
    else:
        rate = settings.imu_rate
    settings.check_seconds(len(values) / rate)
    yield Trace(values, rate)


def seconds(trace: Trace) -> float:
    """The length of a trace."""
    return len(trace.values) / trace.rate


def decode_motion(source: Path | bytes, settings: MediaSettings, part: Part) -> Decoded:
    """float32 (6, T) at IMU_RATE: acceleration in m/s^2, then rotation in rad/s; a note on acceleration in g."""
    with open_motion(source, settings) as trace:
        start, stop = bounds(len(trace.values), part)
        values = trace.values[start:stop]
    if not len(values):
        raise ValueError("a window of it holds no row")
    size = float(np.median(np.linalg.norm(values[:, :3], axis=1)))
    notes = (IN_G,) if 0.8 < size < 1.25 else ()
    return torch.from_numpy(_resampled(values, trace.rate).T.astype(np.float32).copy()), notes


def _resampled(values: Values, rate: float) -> Values:
    """The values at IMU_RATE: linear from a lower rate, filtered from a higher one."""
    if rate == IMU_RATE:
        return values
    if rate > IMU_RATE:
        from scipy.signal import resample_poly

        ratio = Fraction(IMU_RATE / rate).limit_denominator(1000)
        return np.asarray(resample_poly(values, ratio.numerator, ratio.denominator, padtype="line"))
    length = max(round(len(values) * IMU_RATE / rate), 1)
    return _interpolated(
        np.arange(length) * rate / IMU_RATE, np.arange(len(values), dtype=np.float64), values
    )


def _even(times: Values, values: Values) -> tuple[Values, float]:
    """The values at the times' median rate, and that rate. Raises ValueError for times that are none."""
    steps = np.diff(times)
    if steps.min() <= 0:
        raise ValueError(f"its times do not rise at row {int(np.argmax(steps <= 0)) + 2}")
    if steps.max() > GAP:
        raise ValueError(
            f"its times have a gap of {steps.max():.4g} at row {int(steps.argmax()) + 2}; they are in seconds, and a gap of "
            f"{GAP:g} is the longest"
        )
    rate = float(1 / np.median(steps))
    if rate > FASTEST:
        raise ValueError(f"its times give {rate:.4g} rows a second, and {FASTEST} are the most")
    if np.ptp(steps) * rate < 0.01:
        return values, rate
    length = math.floor((times[-1] - times[0]) * rate + 1e-6) + 1
    return _interpolated(times[0] + np.arange(length) / rate, times, values), rate


def _interpolated(at: Values, times: Values, values: Values) -> Values:
    return np.stack([np.interp(at, times, column) for column in values.T], 1)


def _npy(data: bytes) -> tuple[Values, bool]:
    """Rows of an NPY file, (T, 6), or (T, 7) with times first; or the transpose. Raises ValueError; unpickles nothing."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("it is an NPY file of an unknown version")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "fiu":
        raise ValueError("it holds other things than numbers")
    stated = file.tell() + math.prod(shape) * dtype.itemsize
    if len(data) != stated:
        raise ValueError(ENDS_EARLY if len(data) < stated else "it goes on after its header says")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim == 2 and array.shape[0] in (CHANNELS, CHANNELS + 1) and array.shape[1] > CHANNELS + 1:
        array = array.T
    if array.ndim != 2 or array.shape[1] not in (CHANNELS, CHANNELS + 1):
        raise ValueError(f"its shape is {array.shape}, and (T, 6), or (T, 7) with times first, is meant")
    return array.astype(np.float64), array.shape[1] == CHANNELS + 1


def _csv(data: bytes) -> tuple[Values, bool]:
    """Rows of a CSV file, times first if it has any; whether it has. Raises ValueError with the line."""
    text = data.decode("utf-8-sig")
    first = text.split("\n", 1)[0]
    lines = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)))
    names = [] if lines and all(map(_is_number, lines[0])) else [n.strip().lower() for n in lines[0]]
    width = len(lines[0])
    if width not in (CHANNELS, CHANNELS + 1):
        raise ValueError(f"it has {width} columns, and 6, or 7 with times, are meant")
    times = next((i for i, name in enumerate(names) if name in TIMES), 0)
    if width == CHANNELS + 1 and names and names[times] not in TIMES:
        raise ValueError(f"none of its 7 columns is called {TIMES[0]}")
    rows = []
    for number, line in enumerate(lines[bool(names) :], 1 + bool(names)):
        if not line:
            continue
        if len(line) != width or not all(map(_is_number, line)):
            raise ValueError(f"line {number} does not hold {width} numbers")
        rows.append([float(value) for value in line])
    array = np.array(rows, np.float64).reshape(-1, width)
    if width == CHANNELS:
        return array, False
    return np.concatenate([array[:, times : times + 1], np.delete(array, times, 1)], 1), True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
