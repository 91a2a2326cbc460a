"""Variety for pre-training's few voices: sounds moved, stretched, coloured and made noisy in the log-mel domain."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedloom.foundations.imagebind_config import MelConfig

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
