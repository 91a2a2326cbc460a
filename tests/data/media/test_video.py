"""Videos: frames spread evenly, upright, within bounds; damage that their containers or decoders show."""

import io

import av
import numpy as np
import pytest
import torch

from fedloom.data.media import MediaSettings, check_media, decode_media
from tests.data.media.generated_files import hole
from tests.data.media.recordings import CODECS, FRAMES, sound, video


def brightness(frames: torch.Tensor) -> list[float]:
    """Of the left half, which is 12 in the second frame, 24 in the third, and so on."""
    return frames[:, :, :, 2:28].float().mean((1, 2, 3)).tolist()


@pytest.mark.parametrize("kind", list(CODECS))
def test_frames_are_spread_evenly(kind: str) -> None:
    data = video(kind)
    assert check_media("video", data) == ()
    frames = decode_media("video", data, MediaSettings(frames=4))
    assert frames.shape == (4, 3, 48, 64)
    assert frames.dtype == torch.uint8
    assert brightness(frames) == pytest.approx([12 * i for i in (2, 7, 12, 17)], abs=14)
    assert torch.equal(frames, decode_media("video", data, MediaSettings(frames=4)))
    assert torch.equal(frames[:2], decode_media("video", data, MediaSettings(frames=2), (0, 2)))


def test_a_short_video_repeats_frames() -> None:
    frames = decode_media("video", video("mp4"), MediaSettings(frames=40))
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])
    assert decode_media("image", video("gif")).shape == (3, 48, 64)


def test_a_phone_held_upright() -> None:
    file = io.BytesIO()
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0] = 255
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in [
            *stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")),
            *stream.encode(None),
        ]:
            container.mux(packet)
    data = bytearray(file.getvalue())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix of the track, here a quarter turn clockwise
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    frame = decode_media("video", bytes(data), MediaSettings(frames=1))[0]
    assert frame.shape == (3, 64, 48)
    assert frame[0, :28].float().mean() > 200 > 60 > frame[0, 36:].float().mean()


@pytest.mark.parametrize("kind", list(CODECS))
def test_a_cut_shows(kind: str) -> None:
    data = video(kind)
    for at in range(1, len(data), len(data) // 30):
        with pytest.raises(
            Exception, match=r"ends before|decoded|damaged|frames|no video|pictures|no size|empty"
        ):
            check_media("video", data[:at])


def test_a_hole_in_mkv_shows_by_its_checksums() -> None:
    data = video("matroska")
    for at in range(240, len(data) - 40, 90):  # behind the header and its padding
        with pytest.raises(ValueError, match=r"damaged|ends before|no pictures|decoded"):
            check_media("video", hole(data, at, bytes(range(100, 130))))


@pytest.mark.parametrize("kind", list(CODECS))
def test_what_is_accepted_decodes_to_the_same_frames(kind: str) -> None:
    data, noise = video(kind), np.random.default_rng(0)
    for at in range(0, len(data), len(data) // 25):
        damaged = hole(data, at, noise.bytes(16))
        try:
            check_media("video", damaged)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        assert torch.equal(decode_media("video", damaged), decode_media("video", damaged))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pixels": 3000}, r"it has 64 x 48 pixels, and data\.media\.pixels allows 3000"),
        ({"aspect": 1.2}, r"data\.media\.aspect allows a ratio of 1\.2"),
        (
            {"seconds": 1.5},
            r"it lasts 2 seconds, and data\.media\.seconds allows 1\.5; data\.media\.window cuts",
        ),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_bounds(settings: dict, says: str, quick: bool) -> None:
    with pytest.raises(ValueError, match=says):
        check_media("video", video("mp4"), MediaSettings(**settings), quick=quick)


def test_files_that_are_no_videos() -> None:
    with pytest.raises(ValueError, match="it holds no pictures"):
        check_media("video", sound("mp4"))
    with pytest.raises(ValueError, match="it is no video in MP4, MOV, WebM, MKV or AVI"):
        check_media("video", b"#EXTM3U\nhttp://example.org/list.ts\n")
    assert FRAMES == 20
