"""The oracle, a judge of generated pictures: a small convolutional classifier trained on real ones.

Evaluation only: it is trained on data that neither clients nor server may see, so nothing in a federation is ever trained,
selected or weighted by its output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, pad

from fedloom.core.streams import stream_seed, torch_stream

SIDE = 32
"""Largest side in pixels; larger pictures are averaged down to 32 x 32."""
WIDTH = 64
"""Width of the penultimate features."""
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Oracle:
    """A trained classifier; pictures are uint8 (N, 3, H, W) of any size."""

    body: nn.Module
    head: nn.Linear

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Penultimate layer, float32 (N, 64): the fixed features of the Fréchet and the kernel distance."""
        parts = [self.body(_read(x)) for x in torch.split(pictures, 256)]
        return torch.cat(parts) if parts else torch.zeros(0, WIDTH)

    @torch.no_grad()
    def logits(self, pictures: Tensor) -> Tensor:
        """Class logits, float32 (N, C)."""
        logits: Tensor = self.head(self.features(pictures))
        return logits

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Class probabilities, float32 (N, C); rows sum to 1."""
        return self.logits(pictures).softmax(1)


def train_oracle(
    pictures: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
    *,
    steps: int = 400,
    learning_rate: float = 2e-3,
) -> Oracle:
    """Train an oracle of `classes` classes on real pictures uint8 (N, 3, H, W) and labels int64 (N,), deterministic in `seed`.

    AdamW with a one-cycle rate, batches of 64, pictures shifted by up to a sixteenth of their side. Raises ValueError on
    mismatched shapes and labels out of range.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or labels.shape != pictures.shape[:1] or not len(labels):
        raise ValueError(
            f"pictures are {tuple(pictures.shape)} and labels {tuple(labels.shape)}; (N, 3, H, W) and (N,) fit."
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"a label lies outside 0 to {classes - 1}.")
    x, draw = _read(pictures), torch_stream(seed, "oracle", "batches")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "oracle", "weights"))
        body, head = _body(max(x.shape[-2:])), nn.Linear(WIDTH, classes)
    parameters = [*body.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    for _ in range(steps):
        at = torch.randint(len(x), (_BATCH,), generator=draw)
        loss = cross_entropy(head(body(_shifted(x[at], draw))), labels[at])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    body.requires_grad_(False).eval()
    head.requires_grad_(False)
    return Oracle(body, head)


def _body(side: int) -> nn.Module:
    """Three convolutions, average pooling to 2 x 2, a hidden layer.

    Group norm, so that a picture's features do not depend on its batch.
    """
    layers: list[nn.Module] = []
    stride = 1 if side <= SIDE // 2 else 2  # as much work for larger pictures
    for width_in, width in ((3, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(width_in, width, 3, stride, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
        stride = 2
    grid = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 48, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, *grid)


def _read(pictures: Tensor) -> Tensor:
    x = pictures.float() / 127.5 - 1
    return adaptive_avg_pool2d(x, SIDE) if max(x.shape[-2:]) > SIDE else x


def _shifted(x: Tensor, draw: torch.Generator) -> Tensor:
    """The batch shifted by one random offset of up to a sixteenth of the side, the border replicated."""
    tall, wide = x.shape[-2:]
    room = [max(1, side // 16) for side in (tall, wide)]
    top, left = (int(torch.randint(0, 2 * r + 1, (1,), generator=draw)) for r in room)
    padded = pad(x, (room[1], room[1], room[0], room[0]), mode="replicate")
    return padded[..., top : top + tall, left : left + wide]
