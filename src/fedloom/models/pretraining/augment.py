"""Variety for pre-training's few voices and styles: sounds moved, stretched and noisy as log-mels; pictures in other light."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedloom.models.imagebind.config import MelConfig

SILENCE = -15.942385
"""Log-mel floor (spec: ln 1.1920929e-07)."""


def vary_sound(x: Tensor, mel: MelConfig | None, stream: torch.Generator) -> Tensor:
    """Normalised log-mel clips (B, S, 1, bins, frames), each sample varied on its own.

    Pitch and formants (bands scaled by 0.85-1.15 and moved by up to 5 %), tempo (0.85-1.15) and start (up to 10 %),
    spectral tilt and level (up to 3 nepers), and a noise floor.
    """
    mel = mel or MelConfig()
    batch, clips, _, bins, frames = x.shape

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(batch, generator=stream)).to(x.device)

    theta = x.new_zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = draw(0.85, 1.15), draw(-0.1, 0.1)
    theta[:, 1, 1], theta[:, 1, 2] = draw(0.85, 1.15), draw(-0.05, 0.05)
    grid = affine_grid(theta, [batch, clips, bins, frames], align_corners=False)
    moved = grid_sample(x.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    energy = moved.view_as(x) * mel.std + mel.mean
    padding = (energy.abs() < 1e-3).all(
        -2, keepdim=True
    )  # frames beyond the sound: exactly 0, whatever the voice
    rise = torch.linspace(-1, 1, bins, device=x.device)[:, None]
    wide = (batch, 1, 1, 1, 1)
    energy = energy + draw(-1.5, 1.5).view(wide) + rise * draw(-1.5, 1.5).view(wide)
    ripple = torch.randn(x.shape, generator=stream).to(x) * 0.5
    floor = draw(SILENCE, -7.0).view(wide) + 0.5 * rise + ripple
    varied = torch.logaddexp(energy, floor).masked_fill(padding, 0.0)
    return (varied - mel.mean) / mel.std


def vary_light(images: Tensor, stream: torch.Generator) -> Tensor:
    """uint8 (B, 3, H, W) under another light: gains of the colours, a haze of some grey, noise; a third stays unchanged."""
    count = len(images)
    draw = torch.rand(count, 6, generator=stream)
    on = (draw[:, 5] > 1 / 3)[:, None, None, None].float()
    gains = 1 + on * (0.6 * draw[:, :3, None, None] - 0.3)
    haze = on * 0.5 * draw[:, 3, None, None, None] ** 2
    grey = 255 * (0.3 + 0.6 * draw[:, 4, None, None, None])
    noise = on * 25 * torch.rand(count, 1, 1, 1, generator=stream) ** 2
    seen = images.cpu().float() * gains
    seen = seen + (grey - seen) * haze
    seen = seen + noise * torch.randn(count, 1, *images.shape[2:], generator=stream)
    return seen.round().clamp(0, 255).to(torch.uint8)
