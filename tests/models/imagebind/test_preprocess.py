"""Raw samples into encoder inputs, against hand-worked numbers and Pillow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind import preprocess as pre
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig, MelConfig
from fedloom.models.imagebind.preprocess_audio import audio_clips, clip_starts, log_mel, mel_bank

GOLDEN = [0.550027, 0.706441, -0.017655, -0.753981, 0.008892]
PADDING = 4.268 / 9.138


def tone(hertz: float, seconds: float) -> Tensor:
    at = torch.arange(round(seconds * 16_000), dtype=torch.float64) / 16_000
    return (0.5 * torch.sin(2 * math.pi * hertz * at)).float()


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [(3 * x + 5 * y) % 256, (7 * x) % 256, (x * y) % 256, 255 - y % 256]
    return torch.stack(planes[:channels]).to(torch.uint8)


# sound


def test_two_seconds_are_198_frames_and_silence_is_the_floor() -> None:
    silence = log_mel(torch.zeros(2, 32_000), 128)
    assert silence.shape == (2, 128, 198)
    torch.testing.assert_close(silence, torch.full_like(silence, -15.942385))


def test_tone_peaks_in_its_band() -> None:
    bands = log_mel(tone(440.0, 1.0), 128).mean(-1)
    low, high = (1127 * math.log(1 + f / 700) for f in (20.0, 8000.0))
    centre = low + (high - low) / 129 * (torch.arange(128) + 1)
    expected = (centre - 1127 * math.log(1 + 440 / 700)).abs().argmin()
    assert abs(int(bands.argmax()) - int(expected)) <= 1
    assert bands.max() - bands[100] > 10


def test_mel_bank() -> None:
    bank = mel_bank(128, 512, 16_000, 20.0)
    assert bank.shape == (128, 257)
    assert (bank[:, 256] == 0).all()
    assert int((bank.sum(1) == 0).sum()) == 1  # one band is narrower than the spectrum's resolution
    assert 0.9 < bank.max() <= 1
    assert (bank >= 0).all()


def test_log_mel_of_one_frame_by_hand() -> None:
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(400)
    frame = wave - wave.mean()
    frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
    power = np.abs(np.fft.rfft(frame * np.hanning(400), 512)) ** 2
    mels = [1127 * math.log(1 + f / 700) for f in (20.0, 8000.0)]
    step = (mels[1] - mels[0]) / 65
    expected = []
    for band in range(64):
        left = mels[0] + band * step
        total = 0.0
        for k in range(256):
            at = (1127 * math.log(1 + k * 31.25 / 700) - left) / step
            total += power[k] * max(0.0, min(at, 2 - at))
        expected.append(math.log(max(total, 1.1920929e-07)))
    ours = log_mel(torch.from_numpy(wave), 64)
    torch.testing.assert_close(ours[:, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


def chirp() -> Tensor:
    at = torch.arange(16_000, dtype=torch.float64) / 16_000
    return (0.3 * torch.sin(2 * math.pi * (200 * at + 900 * at**2))).float()


def test_golden_chirp() -> None:
    clips = audio_clips(chirp(), 128, 204)
    assert clips.shape == (3, 1, 128, 204)
    picked = clips[0, 0, [10, 20, 40, 60, 70], [0, 10, 30, 60, 97]]
    torch.testing.assert_close(picked, torch.tensor(GOLDEN), atol=1e-4, rtol=0)


def test_log_mel_equals_transformers() -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    bank = mel_filter_bank(
        257, 128, 20.0, 8000.0, 16_000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    wave = chirp() + 0.05 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    theirs = spectrogram(
        wave.double().numpy(), window_function(400, "hann", periodic=False), 400, 160, 512, power=2.0, center=False,
        preemphasis=0.97, mel_filters=bank, log_mel="log", mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )  # fmt: skip
    ours = log_mel(wave, 128)
    assert ours.shape == theirs.shape == (128, 98)
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float(), atol=6e-4, rtol=0)
    torch.testing.assert_close(
        log_mel(wave.double(), 128), torch.from_numpy(theirs).double(), atol=1e-6, rtol=0
    )


def test_padding_and_short_sounds() -> None:
    clips = audio_clips(tone(300.0, 1.0), 128, 204)  # 98 frames
    assert torch.equal(clips[0], clips[1])
    assert torch.equal(clips[0], clips[2])
    torch.testing.assert_close(clips[..., 98:], torch.full((3, 1, 128, 106), PADDING))
    assert pytest.approx(0.467061, abs=1e-6) == PADDING
    full = audio_clips(tone(300.0, 2.0), 128, 204)
    torch.testing.assert_close(full[..., 198:], torch.full((3, 1, 128, 6), PADDING))
    assert (full[..., 197] - PADDING).abs().max() > 0.5
    assert audio_clips(torch.ones(5), 128, 204).isfinite().all()


def test_clip_starts() -> None:
    assert clip_starts(10.0, 3, 2.0) == [0, 4, 8]
    assert clip_starts(10.0, 5, 2.0) == [0, 2, 4, 6, 8]
    assert clip_starts(1.5, 3, 2.0) == [0, 0, 0]
    assert clip_starts(9.0, 1, 2.5) == [0]


def test_clips_come_from_their_times() -> None:
    wave = torch.cat([tone(300.0, 2.0), tone(3000.0, 2.0), tone(1000.0, 2.0)])
    clips = audio_clips(wave, 128, 204)
    for clip, hertz in zip(clips, (300.0, 3000.0, 1000.0), strict=True):
        torch.testing.assert_close(clip, audio_clips(tone(hertz, 2.0), 128, 204)[0], atol=2e-3, rtol=0)
    assert clips[0, 0, :, 50].argmax() < clips[2, 0, :, 50].argmax() < clips[1, 0, :, 50].argmax()


def test_each_clip_loses_its_own_mean_and_channels_are_averaged() -> None:
    left, right = tone(300.0, 2.0), tone(700.0, 2.0)
    mixed = audio_clips((left + right) / 2, 128, 204)
    torch.testing.assert_close(audio_clips(torch.stack([left, right]), 128, 204), mixed)
    torch.testing.assert_close(audio_clips(torch.stack([right, left]), 128, 204), mixed)
    constant = audio_clips(torch.full((32_000,), 0.7), 128, 204)[..., :198]
    torch.testing.assert_close(constant, torch.full((3, 1, 128, 198), (-15.942385 + 4.268) / 9.138))


def test_tiny_audio_has_124_full_frames() -> None:
    mel = ImageBindConfig.tiny().modalities["audio"].mel
    clips = audio_clips(tone(300.0, 4.0), 64, 128, mel)
    assert clips.shape == (1, 1, 64, 128)
    torch.testing.assert_close(clips[..., 124:], torch.full((1, 1, 64, 4), PADDING))
    assert (clips[..., 123] - PADDING).abs().max() > 0.5
    early = tone(300.0, 4.0)
    early[40_000:] = 0
    assert torch.equal(audio_clips(early, 64, 128, mel), clips)


def test_log_mel_is_differentiable() -> None:
    wave = tone(500.0, 0.2).requires_grad_()
    audio_clips(wave, 64, 40, MelConfig(clips=1)).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert wave.grad.any()


def test_empty_sound_names_its_file() -> None:
    with pytest.raises(ExperimentError, match=r"beep\.wav"):
        audio_clips(torch.zeros(0), 64, 128, name="beep.wav")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90_000))
def test_any_length_fits(samples: int) -> None:
    clips = audio_clips(torch.linspace(-1, 1, samples), 64, 40, MelConfig(clips=2, clip_seconds=0.5))
    assert clips.shape == (2, 1, 64, 40)
    assert clips.isfinite().all()


# pictures


@pytest.mark.parametrize(("height", "width"), [(61, 97), (97, 61), (30, 48), (48, 48), (200, 120)])
def test_image_equals_pillow(height: int, width: int) -> None:
    raw = picture(height, width)
    short = 48 / min(height, width)
    target = (48, int(48 * height / width)) if width < height else (int(48 * width / height), 48)
    pil = Image.fromarray(raw.permute(1, 2, 0).numpy())
    if short != 1:
        pil = pil.resize(target, Image.Resampling.BICUBIC)
    top, left = round((pil.height - 48) / 2), round((pil.width - 48) / 2)
    expected = np.asarray(pil, dtype=np.float32)[top : top + 48, left : left + 48].transpose(2, 0, 1) / 255
    expected = (expected - np.array(pre.CLIP_MEAN)[:, None, None]) / np.array(pre.CLIP_STD)[:, None, None]
    ours = pre.image(raw, (48, 48))
    assert ours.shape == (3, 48, 48)
    assert (ours - torch.from_numpy(expected)).abs().max() < 1e-6


def test_image_by_hand() -> None:
    out = pre.image(torch.full((3, 60, 90), 51, dtype=torch.uint8), (48, 48))
    for channel, (mean, std) in enumerate(zip(pre.CLIP_MEAN, pre.CLIP_STD, strict=True)):
        torch.testing.assert_close(out[channel], torch.full((48, 48), (0.2 - mean) / std))


def test_grey_and_transparent_images() -> None:
    grey = picture(50, 70, 1)
    torch.testing.assert_close(pre.image(grey, (48, 48)), pre.image(grey.expand(3, -1, -1), (48, 48)))
    both = torch.cat([grey, 255 - grey])
    torch.testing.assert_close(pre.image(both, (48, 48)), pre.image(grey, (48, 48)))
    rgba = picture(50, 70, 4)
    torch.testing.assert_close(pre.image(rgba, (48, 48)), pre.image(rgba[:3], (48, 48)))


def test_thermal_keeps_its_unit_range() -> None:
    raw = torch.zeros(1, 60, 90)
    raw[:, :, 45:] = 1.0
    out = pre.thermal(raw, (48, 48))
    assert out.shape == (1, 48, 48)
    assert out.min() == 0
    assert out.max() == 1  # a bicubic step overshoots without the clamp
    assert out[0, 20, 5] == 0
    assert out[0, 20, 40] == 1


def test_depth_is_standardised_disparity() -> None:
    raw = torch.full((1, 48, 48), 2.0)
    raw[:, :24] = 4.0
    out = pre.depth(raw, (48, 48))
    torch.testing.assert_close(out[:, :24], torch.full((1, 24, 48), -1.0))  # disparities 0.25 and 0.5
    torch.testing.assert_close(out[:, 24:], torch.full((1, 24, 48), 1.0))


def test_depth_reads_holes_as_far_and_clips_to_the_sensor() -> None:
    raw = torch.rand(1, 50, 70) * 3 + 1
    far = raw.clone()
    raw[0, 3, 4], raw[0, 9, 9], raw[0, 20, 20], raw[0, 30, 30] = 0.0, torch.nan, torch.inf, 99.0
    raw[0, 8, 8] = 0.001
    for y, x in ((3, 4), (9, 9), (20, 20), (30, 30)):
        far[0, y, x] = 10.0
    far[0, 8, 8] = 0.1
    out = pre.depth(raw, (48, 48))
    assert out.isfinite().all()
    torch.testing.assert_close(out, pre.depth(far, (48, 48)))
    flat = pre.depth(torch.full((1, 50, 50), 3.0), (48, 48))
    torch.testing.assert_close(flat, torch.zeros(1, 48, 48), atol=1e-3, rtol=0)


def test_motion_is_resampled_and_standardised() -> None:
    ramp = torch.linspace(0, 1, 11).expand(6, 11) * torch.arange(1, 7)[:, None]
    out = pre.motion(ramp, 6, 201)
    torch.testing.assert_close(out.mean(1), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(6))
    steps = out.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0)
    still = pre.motion(torch.full((6, 30), 9.81), 6, 50)
    torch.testing.assert_close(still, torch.zeros(6, 50), atol=1e-6, rtol=0)


def test_video_clips_and_crops() -> None:
    frames = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 48, 60).clone()
    frames[..., 50:] += 100  # brighter right edge: only the last crop reaches it
    out = pre.video_clips(frames, frame_rate=10.0, size=(48, 48))  # 10 s
    assert out.shape == (15, 3, 2, 48, 48)
    red = out[:, 0, :, 0, 0] * pre.CLIP_STD[0] + pre.CLIP_MEAN[0]
    first = (red * 255).round().int().view(5, 3, 2)
    assert first[:, 0].tolist() == [[0, 19], [20, 39], [40, 59], [60, 79], [80, 99]]
    edge = (out[:3, 0, 0, 0, -1] * pre.CLIP_STD[0] + pre.CLIP_MEAN[0]) * 255
    assert edge.round().int().tolist() == [0, 100, 100]
    start_of_bright = [(out[i, 0, 0, 0] > out[i, 0, 0, 0, 0] + 0.1).int().argmax().item() for i in (1, 2)]
    assert start_of_bright == [50 - 6, 50 - 12]


def test_short_high_video() -> None:
    frames = picture(90, 30).expand(4, -1, -1, -1)
    out = pre.video_clips(frames, frame_rate=4.0, size=(48, 48))
    assert out.shape == (15, 3, 2, 48, 48)
    assert torch.equal(out[:3], out[3:6])
    assert not torch.equal(out[0], out[2])


# text


def test_text_is_cut_before_its_end_token() -> None:
    ids = torch.tensor([9, 1, 2, 3, 4, 10])
    assert pre.text_ids(ids, 8).tolist() == [9, 1, 2, 3, 4, 10, 0, 0]
    assert pre.text_ids(ids, 4).tolist() == [9, 1, 2, 10]


def test_tokenize_frames_a_text() -> None:
    class Letters:
        bos_token_id, eos_token_id, unk_token_id = 100, 101, None
        all_special_ids, added_tokens_decoder = (100, 101), {}

        def __call__(self, text: str, add_special_tokens: bool, **options: bool) -> dict[str, list[int]]:
            assert not add_special_tokens
            return {"input_ids": [ord(c) - 96 for c in text]}

    assert pre.tokenize("abc", Letters(), 6).tolist() == [100, 1, 2, 3, 101, 0]
    assert pre.tokenize("abcdefg", Letters(), 6).tolist() == [100, 1, 2, 3, 4, 101]


# the one door


RAW = {
    "image": picture(60, 90),
    "audio": tone(440.0, 1.0),
    "text": torch.tensor([3, 4, 1023]),
    "depth": torch.rand(1, 50, 70) + 1,
    "thermal": torch.rand(1, 50, 70),
    "imu": torch.randn(6, 333),
}


@pytest.mark.parametrize("modality", list(RAW))
@pytest.mark.parametrize("preset", ["tiny", "huge"])
def test_prepared_samples_fit_the_encoder(modality: str, preset: str) -> None:
    config = getattr(ImageBindConfig, preset)()
    with torch.device("meta"):
        model = ImageBind(config, [modality])
    x = model.preprocess(modality, RAW[modality])
    assert x.shape[-len(config.modalities[modality].input_shape) :] == config.modalities[modality].input_shape
    assert model.encode(modality, x[None].to("meta")).shape == (1, config.out_dim)


def test_prepared_video_fits_the_encoder() -> None:
    model = ImageBind(ImageBindConfig.tiny(), ["image"])
    frames = picture(60, 90).expand(30, -1, -1, -1)
    x = model.preprocess("image", frames, frame_rate=10.0)
    assert model.encode("image", x[None]).shape == (1, 128)
    with pytest.raises(ExperimentError, match="frame_rate"):
        model.preprocess("image", frames)


@pytest.mark.parametrize(
    ("modality", "raw"),
    [
        ("image", torch.rand(3, 50, 50)),
        ("image", torch.zeros(5, 50, 50, dtype=torch.uint8)),
        ("audio", torch.zeros(0)),
        ("depth", torch.rand(50, 50)),
        ("thermal", torch.zeros(1, 50, 50, dtype=torch.uint8)),
        ("imu", torch.rand(5, 50)),
        ("text", torch.rand(4)),
    ],
)
def test_wrong_samples_are_named(modality: str, raw: Tensor) -> None:
    model = ImageBind(ImageBindConfig.tiny())
    with pytest.raises(ExperimentError, match=modality):
        model.preprocess(modality, raw)
