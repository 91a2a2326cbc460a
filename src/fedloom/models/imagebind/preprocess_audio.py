"""Sound into log-mel clips: Kaldi's filter bank in plain torch, batched and differentiable."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind.config import MelConfig

FLOOR = torch.finfo(torch.float32).eps
"""Smallest mel energy before the logarithm: silence becomes ln(1.1920929e-07) = -15.942385."""
PREEMPHASIS = 0.97


def log_mel(wave: Tensor, bins: int, mel: MelConfig | None = None) -> Tensor:
    """Kaldi-style log-mel energies of full frames only, (..., T) -> (..., bins, 1 + (T - frame) // hop).

    Per frame: subtract its mean, pre-emphasise (the first sample against itself), symmetric Hann window,
    power spectrum, triangles in mel, natural logarithm with a floor. No dither, no energy row.
    """
    mel = mel or MelConfig()
    frames = wave.unfold(-1, mel.frame, mel.hop)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hann_window(mel.frame, periodic=False, dtype=wave.dtype, device=wave.device)
    frames = (frames - PREEMPHASIS * before) * window
    size = 1 << (mel.frame - 1).bit_length()
    power = torch.fft.rfft(frames, n=size).abs().square()
    bank = mel_bank(bins, size, mel.sample_rate, mel.low_hz).to(wave)
    energies: Tensor = (power @ bank.T).clamp_min(FLOOR).log()
    return energies.transpose(-1, -2)


@cache
def mel_bank(bins: int, size: int, sample_rate: int, low_hz: float) -> Tensor:
    """Triangular filters (bins, size / 2 + 1) from `low_hz` to half the sample rate, linear in mel, height 1.

    Mel is 1127 ln(1 + f / 700). The last spectral bin gets weight zero, as in Kaldi.
    """
    low, high = _to_mel(torch.tensor([low_hz, sample_rate / 2], dtype=torch.float64)).tolist()
    step = (high - low) / (bins + 1)
    left = low + step * torch.arange(bins, dtype=torch.float64)[:, None]
    at = _to_mel(torch.arange(size // 2, dtype=torch.float64) * sample_rate / size)
    rising, falling = (at - left) / step, (left + 2 * step - at) / step
    return functional.pad(torch.minimum(rising, falling).clamp_min(0), (0, 1)).float()


def clip_starts(seconds: float, clips: int, clip_seconds: float) -> list[float]:
    """Start times in seconds of `clips` evenly spread clips; all 0 if the whole is no longer than a clip."""
    spare = max(seconds - clip_seconds, 0.0)
    return [i * spare / max(clips - 1, 1) for i in range(clips)]


def audio_clips(
    wave: Tensor, bins: int, frames: int, mel: MelConfig | None = None, name: str = "audio"
) -> Tensor:
    """A waveform (T,) or (channels, T) -> normalised log-mel clips (S, 1, bins, frames), float32.

    Channels are averaged. Each clip loses its mean. Missing frames are zeros *before* normalising (so that
    padding becomes -mean / std), surplus frames are cut. A sound shorter than a clip gives equal clips.

    Raises:
        ExperimentError: the sound is empty (the sentence carries `name`, e.g. the file).

    """
    mel = mel or MelConfig()
    wave = wave.float().mean(0) if wave.dim() == 2 else wave.float()
    if wave.dim() != 1 or wave.numel() == 0:
        raise ExperimentError(
            f"{name} has shape {tuple(wave.shape)} but must be a waveform (T,) or (channels, T) "
            "of at least one sample"
        )
    length = round(mel.clip_seconds * mel.sample_rate)
    starts = clip_starts(len(wave) / mel.sample_rate, mel.clips, mel.clip_seconds)
    parts = torch.stack(
        [wave[(at := int(s * mel.sample_rate)) :][: min(length, len(wave) - at)] for s in starts]
    )
    parts = parts - parts.mean(-1, keepdim=True)
    parts = functional.pad(parts, (0, max(mel.frame - parts.shape[-1], 0)))
    energies = log_mel(parts, bins, mel)[..., :frames]
    energies = functional.pad(energies, (0, frames - energies.shape[-1]))
    return ((energies - mel.mean) / mel.std).unsqueeze(1)


def _to_mel(hertz: Tensor) -> Tensor:
    return 1127.0 * (1 + hertz / 700).log()
