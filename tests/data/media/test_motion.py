"""Motion traces: their rate, their columns, and what is refused."""

import io

import numpy as np
import pytest
import torch

from fedloom.data.media import MediaSettings, check_media, count_windows, decode_media
from fedloom.data.media.motion import IN_G

AT_50 = MediaSettings(imu_rate=50)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def trace(rows: int = 100, rate: float = 50.0, times: bool = True) -> np.ndarray:
    """Gravity on the third axis and slow sines; the first column counts seconds."""
    at = np.arange(rows) / rate
    columns = [*(np.sin(at * (k + 1)) for k in range(6)), at]
    columns[2] = columns[2] + 9.81
    return np.stack(columns[-1:] + columns[:6] if times else columns[:6], 1)


def text(rows: np.ndarray, header: str = "", delimiter: str = ",") -> bytes:
    lines = [delimiter.join(f"{v:.9g}" for v in row) for row in rows]
    return "\n".join([*([header] if header else []), *lines, ""]).encode()


def test_every_spelling_gives_the_same_trace() -> None:
    rows = trace()
    expected = decode_media("imu", npy(rows))
    assert expected.shape == (6, 800)
    assert expected.dtype == torch.float32
    assert expected[2, 0] == pytest.approx(9.81)
    assert expected[0, 400] == pytest.approx(np.sin(1.0), abs=1e-6)
    for data, settings in (
        (npy(rows.T), MediaSettings()),
        (npy(rows[:, 1:].copy()), AT_50),
        (npy(rows[:, 1:].astype(np.float32)), AT_50),
        (text(rows), MediaSettings()),
        (text(rows, "time;ax;ay;az;gx;gy;gz".replace(";", "\t"), "\t"), MediaSettings()),
        (text(np.roll(rows, -1, 1), "ax,ay,az,gx,gy,gz,Timestamp"), MediaSettings()),
        (b"\xef\xbb\xbf" + text(rows[:, 1:], "ax;ay;az;gx;gy;gz", ";"), AT_50),
    ):
        assert check_media("imu", data, settings) == ()
        torch.testing.assert_close(decode_media("imu", data, settings), expected, atol=1e-5, rtol=0)


def test_uneven_times_are_made_even_and_a_high_rate_is_filtered() -> None:
    rng = np.random.default_rng(0)
    at = np.sort(np.arange(200) / 100 + rng.uniform(-0.002, 0.002, 200))
    rows = np.stack([at, *(5 * at for _ in range(6))], 1)
    even = decode_media("imu", npy(rows))
    assert even.shape[1] == pytest.approx(800, rel=0.05)
    torch.testing.assert_close(
        even[0, :-8].diff(), torch.full((even.shape[1] - 9,), 5 / 400), atol=2e-3, rtol=0
    )
    fast = np.stack(
        [np.sin(2 * np.pi * 900 * np.arange(4_000) / 2_000)] * 6, 1
    )  # 900 Hz at 2 kHz: beyond 400 / 2
    slow = decode_media("imu", npy(fast), MediaSettings(imu_rate=2_000))
    assert slow.shape == (6, 800)
    assert slow[:, 50:-50].abs().max() < 0.05


def test_windows_and_bounds() -> None:
    data = npy(trace(1000))
    assert count_windows("imu", data, MediaSettings(window=5)) == 4
    first = decode_media("imu", data, MediaSettings(window=5), (0, 4))
    torch.testing.assert_close(first[:, :-8], decode_media("imu", data)[:, :1992], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"it lasts 20 seconds, and data\.media\.seconds allows 3"):
        check_media("imu", data, MediaSettings(seconds=3))


def test_acceleration_in_units_of_g_is_noted() -> None:
    rows = trace()
    rows[:, 1:4] = [0.0, 0.1, 1.0]
    assert check_media("imu", npy(rows)) == (IN_G,)


ROWS = trace()
JUMP, BACK = ROWS.copy(), ROWS.copy()
JUMP[50:, 0] += 3
BACK[50, 0] = 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (npy(ROWS[:, 1:].copy()), r"no column of times; give data\.media\.imu_rate"),
        (npy(ROWS)[:-8], "it ends before its header says"),
        (npy(ROWS) + b"1", "it goes on after its header says"),
        (npy(ROWS.astype(object)), "it holds other things than numbers"),
        (npy(np.zeros((3, 4))), r"its shape is \(3, 4\)"),
        (npy(ROWS * np.nan), "values that are not finite"),
        (npy(ROWS[:1]), "fewer than two rows"),
        (npy(ROWS * [1, 1, 1, 1, 1000, 1, 1]), "its rotation reaches 1000, and 200 rad/s"),
        (npy(ROWS * [1, 1, 1, 1000, 1, 1, 1]), r"its acceleration reaches .*, and 2000 m/s\^2"),
        (npy(JUMP), "its times have a gap of 3.02 at row 51"),
        (npy(BACK), "its times do not rise at row 51"),
        (npy(ROWS * [1e-6, 1, 1, 1, 1, 1, 1]), "its times give 5e[+]07 rows a second"),
        (text(ROWS)[:-30], "line 100 does not hold 7 numbers"),
        (text(ROWS[:, :3]), "it has 3 columns, and 6, or 7 with times, are meant"),
        (text(ROWS, "a,b,c,d,e,f,g"), "none of its 7 columns is called time"),
        (text(ROWS).replace(b"9.8", b"9_8", 1), "does not hold 7 numbers|columns is called"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"\n\n", "columns"),
    ],
)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_media("imu", data)
