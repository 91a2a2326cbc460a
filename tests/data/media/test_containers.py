"""Sound in MP4, M4A, AAC, WebM and MKV; Opus; several channels; windows of long recordings."""

import io

import numpy as np
import pytest
import soundfile
import torch

from fedloom.data.media import MediaSettings, check_media, count_windows, decode_media
from fedloom.data.media.sound import SURROUND
from tests.data.media.generated_files import hole
from tests.data.media.recordings import sound

FORMS = [
    ("mp4", "aac"),
    ("ipod", "aac"),
    ("adts", "aac"),
    ("webm", "libopus"),
    ("matroska", "libopus"),
    ("ogg", "libopus"),
]


@pytest.mark.parametrize(("kind", "codec"), FORMS)
def test_a_tone_keeps_its_length_loudness_and_pitch(kind: str, codec: str) -> None:
    data = sound(kind, codec)
    assert check_media("audio", data) == ()
    assert check_media("audio", data, quick=True) == ()
    wave = decode_media("audio", data)
    assert len(wave) == pytest.approx(16_000, abs=800)  # bare AAC keeps the encoder's padding
    assert wave[2000:14000].std() == pytest.approx(0.3 / 2**0.5, rel=0.02)
    assert int(torch.fft.rfft(wave[:16_000]).abs().argmax()) == pytest.approx(440, abs=2)
    assert torch.equal(wave, decode_media("audio", data))


@pytest.mark.parametrize(("kind", "codec"), FORMS)
def test_a_cut_shows_but_at_a_frame_of_bare_aac(kind: str, codec: str) -> None:
    data = sound(kind, codec)
    for at in range(1, len(data), len(data) // 25):
        if data[at : at + 2] == data[:2] and kind == "adts":
            continue
        with pytest.raises(
            Exception, match=r"ends|damaged|decoded|no sound|no .*frame|Format|Error|Unspecified"
        ):
            check_media("audio", data[:at])


@pytest.mark.parametrize("kind", ["ogg", "matroska"])
def test_a_hole_shows_by_checksums(kind: str) -> None:
    data = sound(kind, "libopus")
    with pytest.raises(Exception, match=r"wrong checksum|malformed"):
        check_media("audio", hole(data, len(data) // 2, bytes(50)))


def test_a_hole_between_frames_of_bare_aac() -> None:
    data = sound("adts")
    with pytest.raises(ValueError, match="no frame begins there"):
        check_media("audio", hole(data, len(data) // 2, bytes(2000)))


def test_six_channels_are_averaged_with_a_note() -> None:
    waves = 0.1 * np.eye(6)[np.arange(6_000) % 6] + 0.2
    file = io.BytesIO()
    soundfile.write(file, waves, 16_000, format="WAV", subtype="FLOAT")
    assert check_media("audio", file.getvalue()) == (SURROUND,)
    torch.testing.assert_close(decode_media("audio", file.getvalue()), torch.full((6_000,), 0.2 + 0.1 / 6))
    assert check_media("audio", sound("ipod", layout="5.1")) == (SURROUND,)


@pytest.mark.parametrize(
    ("kind", "codec"), [("WAV", ""), ("FLAC", ""), ("OGG", ""), ("MP3", ""), ("ipod", "aac")]
)
def test_windows_are_equal_and_lose_nothing(kind: str, codec: str) -> None:
    if codec:
        data = sound(kind, codec, seconds=2.2)
    else:
        file = io.BytesIO()
        rng = np.random.default_rng(0)
        soundfile.write(file, rng.normal(0, 0.1, 35_200), 16_000, format=kind)
        data = file.getvalue()
    settings = MediaSettings(window=0.5, seconds=1)
    assert check_media("audio", data, settings) == ()
    assert count_windows("audio", data, settings) == 5
    assert count_windows("audio", data, MediaSettings()) == 1
    whole = decode_media("audio", data)
    pieces = [decode_media("audio", data, settings, (k, 5)) for k in range(5)]
    assert [len(p) for p in pieces[:4]] == [7040] * 4
    if codec:  # resampled window by window
        torch.testing.assert_close(torch.cat(pieces)[1000:6000], whole[1000:6000], atol=1e-3, rtol=0)
    else:
        torch.testing.assert_close(torch.cat(pieces), whole, atol=2e-3 if kind == "MP3" else 1e-6, rtol=0)
