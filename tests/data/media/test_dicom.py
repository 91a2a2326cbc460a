"""DICOM: rescaled, windowed, inverted; several frames; damage; and nothing about a patient in a message."""

import io

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from fedloom.data.media import Media, MediaSettings, check_all, check_media, decode_media
from fedloom.data.media.dicom import NO_WINDOW
from fedloom.data.media.picture import FIRST_FRAME
from tests.data.media.generated_files import hole

NAME = "Doe^Jane"
TWELVE = np.array([[0, 1024, 2048, 4095]] * 2, np.uint16)
JPEG_LOSSLESS = UID("1.2.840.10008.1.2.4.70")


def dicom(values: np.ndarray = TWELVE, syntax: UID = ExplicitVRLittleEndian, **fields: object) -> bytes:
    """The file of a grey picture (H, W), several (N, H, W) or a coloured one (H, W, 3)."""
    data, file = Dataset(), io.BytesIO()
    colour = values.shape[-1] == 3
    data.SOPClassUID, data.SOPInstanceUID, data.PatientName = CTImageStorage, "1.2.3", NAME
    data.Rows, data.Columns = values.shape[:2] if colour else values.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    elif values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.BitsAllocated = values.dtype.itemsize * 8
    data.BitsStored = 12 if values.dtype.itemsize == 2 else 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    for name, value in fields.items():
        setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax if not syntax.is_compressed else ExplicitVRLittleEndian
    if syntax == RLELossless:
        data.compress(RLELossless)
    elif syntax.is_compressed:  # bytes that nothing here decodes
        from pydicom.encaps import encapsulate

        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([b"\xff\xd8\xff\xc3" + bytes(60)])
        data["PixelData"].is_undefined_length = True
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def grey(data: bytes, **settings: object) -> list[int]:
    pixels = decode_media("image", data, MediaSettings(**settings))
    assert (pixels[0] == pixels[2]).all()
    return pixels[0, 0].tolist()


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"WindowCenter": 2048, "WindowWidth": 4096}, [0, 64, 128, 255]),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2048, "WindowWidth": 4096},
            [255, 191, 127, 0],
        ),
        # Hounsfield units -1024 .. 3071 through the window of soft tissue
        (
            {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
            [0, 102, 255, 255],
        ),
        ({"WindowCenter": [1024, 50], "WindowWidth": [2048, 5]}, [0, 128, 255, 255]),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "SIGMOID"}, [30, 69, 128, 225]),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}, [0, 64, 128, 255]),
    ],
)
def test_grey_is_rescaled_windowed_and_inverted(fields: dict[str, object], row: list[int]) -> None:
    data = dicom(**fields)
    assert grey(data) == row
    assert check_media("image", data) == ()


def test_without_a_window_the_setting_or_its_own_range() -> None:
    data = dicom(TWELVE // 4)
    assert check_media("image", data) == (NO_WINDOW,)
    assert grey(data) == [0, 64, 128, 255]
    assert grey(data, grey_bits=12) == [0, 16, 32, 64]
    assert check_media("image", data, MediaSettings(grey_bits=12)) == ()


def test_of_several_frames_the_first_and_colours_as_they_are() -> None:
    data = dicom(np.stack([TWELVE, TWELVE * 0]), WindowCenter=2048, WindowWidth=4096)
    assert grey(data) == [0, 64, 128, 255]
    assert check_media("image", data) == (FIRST_FRAME,)
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert decode_media("image", dicom(colours)).permute(1, 2, 0).tolist() == colours.tolist()


def test_compressed_pixels() -> None:
    assert grey(dicom(WindowCenter=2048, WindowWidth=4096, syntax=RLELossless)) == [0, 64, 128, 255]
    with pytest.raises(
        ValueError, match=r"compressed as JPEG Lossless.* needs a decoder of pydicom's, such as pylibjpeg"
    ):
        check_media("image", dicom(syntax=JPEG_LOSSLESS))
    with pytest.raises(ValueError, match="its DICOM is deflated as a whole"):
        check_media("image", dicom(syntax=DeflatedExplicitVRLittleEndian))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Rows": 3}, r"its pixels are damaged \(not the 24 bytes"),
        ({"Rows": 0}, "impossible size"),
        ({"BitsStored": 99}, "impossible size"),
        ({"PhotometricInterpretation": NAME}, "neither grey nor RGB"),
        ({"WindowCenter": 1, "WindowWidth": 0}, r"its DICOM pixels cannot be decoded \(ValueError\)"),
        ({"Columns": 20_000, "Rows": 20_000, "PixelData": b""}, "damaged"),
    ],
)
def test_wrong_headers(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_media("image", dicom(**fields))


def test_a_cut_anywhere_and_no_patient_in_any_message(capfd: pytest.CaptureFixture[str]) -> None:
    data = dicom(WindowCenter=2048, WindowWidth=4096)
    noise, seen = np.random.default_rng(0), 0
    for at in range(140, len(data)):
        for damaged in (data[:at], hole(data, at, noise.bytes(8))):
            [finding] = check_all([Media("image", lambda content=damaged: content)])
            said = finding.fault or ""
            seen += bool(said)
            assert "Jane" not in said
            assert "Doe" not in said
            assert said or len(damaged) == len(data)  # never one that is cut
    assert seen > 300
    assert capfd.readouterr() == ("", "")


def test_bounds_and_quick() -> None:
    data = dicom()
    with pytest.raises(ValueError, match=r"it has 4 x 2 pixels, and data\.media\.pixels allows 7"):
        check_media("image", data, MediaSettings(pixels=7), quick=True)
    assert check_media("image", data, quick=True) == ()
