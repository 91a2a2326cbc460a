"""The text-to-image diffusion model of FedMMKT's server: samples pictures for prompts and fine-tunes its denoiser.

Any Stable Diffusion in diffusers' layout (a variational autoencoder makes latents of pictures), or the same without an
autoencoder: then the denoiser works on the pictures themselves. Only the denoiser is trained; text encoder and autoencoder are
frozen.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter

from fedloom.core.shared_results import key_of
from fedloom.models.generation import checkpoint as generator_io
from fedloom.models.plain_tokenizer import PlainTokenizer

GROUP = "denoiser"
"""The group under which the denoiser's tensors travel: `denoiser/<place>`."""


class Generator:
    """Samples with classifier-free guidance and fine-tunes by noise prediction. Pictures are uint8 (N, channels, size, size)."""

    def __init__(self, parts: generator_io.Parts, device: torch.device | str = "cpu") -> None:
        """`parts` are diffusers' and transformers' own modules; they are moved to `device` and frozen but for the denoiser."""
        self.device = torch.device(device)
        self.parts = parts
        self.denoiser = parts.denoiser.to(self.device).eval()
        self.text_encoder = parts.text_encoder.to(self.device).eval().requires_grad_(False)
        self.autoencoder = parts.autoencoder
        if self.autoencoder is not None:
            self.autoencoder.to(self.device).eval().requires_grad_(False)
        self.tensors: dict[str, Parameter] = {
            f"{GROUP}/{place}": parameter for place, parameter in self.denoiser.named_parameters()
        }
        """The denoiser's parameters by travelling name."""
        self.start: dict[str, Tensor] = {n: p.detach().clone() for n, p in self.tensors.items()}
        """The tensors as they were loaded."""
        scale = 1 if self.autoencoder is None else 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.channels: int = (
            self.denoiser if self.autoencoder is None else self.autoencoder
        ).config.in_channels
        self.size: int = self.denoiser.config.sample_size * scale

    @cached_property
    def frozen_key(self) -> bytes:
        """A digest of all that a picture depends on beside denoiser, prompts and noise."""
        frozen = {f"text/{n}": t for n, t in self.text_encoder.state_dict().items()}
        if self.autoencoder is not None:
            frozen |= {f"pictures/{n}": t for n, t in self.autoencoder.state_dict().items()}
        words = sorted(self.parts.tokenizer.get_vocab().items())
        return key_of(frozen, sorted(self.parts.scheduler.config.items()), words, self.size)

    @classmethod
    def load(cls, name: str | Path, device: torch.device | str = "cpu") -> "Generator":
        """A shipped generator by its name (`tiny-t2i`), a folder in diffusers' layout, or a Hugging Face id, in float32.

        Raises ExperimentError for one that cannot be read, and where diffusers is not installed.
        """
        return cls(generator_io.read(name), device)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load these into the denoiser and reset all others to the start. Raises KeyError for an unknown name."""
        if unknown := sorted(tensors.keys() - self.tensors.keys()):
            raise KeyError(f"the denoiser has no tensor {unknown[0]}")
        with torch.no_grad():
            for name, parameter in self.tensors.items():
                parameter.copy_(tensors.get(name, self.start[name]))

    def save(self, folder: str | Path) -> None:
        """Write the model in float32, in diffusers' layout."""
        generator_io.write(self.parts, Path(folder))

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        rng: torch.Generator,
        *,
        guidance: float = 3.0,
        steps: int = 20,
        batch: int = 64,
    ) -> Tensor:
        """A picture for each prompt, uint8 (N, channels, size, size) on the CPU, by DDIM (Song et al., 2021, eta = 0).

        Args:
            prompts: texts of the pictures; "" is unconditional.
            rng: a CPU generator; pictures' noise is drawn one by one in order, independent of `batch`.
            guidance: classifier-free guidance (Ho and Salimans, 2022): eps(empty) + guidance (eps(prompt) - eps(empty)).
            steps: denoising steps.
            batch: pictures at a time.

        """
        noise = torch.stack([torch.randn(self._shape, generator=rng) for _ in prompts]) if prompts else None
        if noise is None:
            return torch.zeros(0, self.channels, self.size, self.size, dtype=torch.uint8)
        known = self._encode_texts(["", *prompts])
        done = []
        for first in range(0, len(prompts), batch):
            texts = torch.stack([known[p] for p in prompts[first : first + batch]])
            empty = known[""].expand_as(texts)
            done.append(
                self._denoise(noise[first : first + batch].to(self.device), texts, empty, guidance, steps)
            )
        return torch.cat(done)

    def _denoise(self, x: Tensor, texts: Tensor, empty: Tensor, guidance: float, steps: int) -> Tensor:
        scheduler = generator_io.ddim(self.parts.scheduler)
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma
        both = torch.cat([empty, texts]) if guidance > 1 else texts
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(torch.cat([x, x]) if guidance > 1 else x, t)
            predicted = self._predict(seen, t.expand(len(seen)).to(self.device), both)
            if guidance > 1:
                free, bound = predicted.chunk(2)
                predicted = free + guidance * (bound - free)
            x = scheduler.step(predicted, t, x, eta=0.0).prev_sample
        if self.autoencoder is not None:
            x = self.autoencoder.decode(x / self.autoencoder.config.scaling_factor).sample
        return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def tune(
        self,
        start: Mapping[str, Tensor],
        pictures: Tensor,
        prompts: Sequence[str],
        weights: Tensor,
        rng: torch.Generator,
        *,
        lr: float = 1e-5,
        batch_size: int = 16,
        passes: int = 1,
        steps: int | None = None,
        drop: float = 0.2,
        anchor_weight: float = 0.0,
    ) -> tuple[dict[str, Tensor], float]:
        """Train the denoiser from `start`: mean_i weights_i E ||eps - eps_theta(x_i^t, t, prompt_i)||^2 (FedMMKT, server update).

        The squared norm is a mean over the picture's (or latent's) numbers. `anchor_weight` times the mean squared
        difference from the loaded denoiser's prediction is added. A checkpoint that predicts v has v in place of the noise.
        The model keeps the result.

        Args:
            start: denoiser tensors, not changed; missing ones are the loaded denoiser's.
            pictures: uint8 (N, channels, size, size).
            prompts: N texts; each is emptied with probability `drop`, anew at every use.
            weights: (N,) float.
            rng: a CPU generator of order, times, noise and emptied prompts.
            lr: AdamW's learning rate; weight decay 0.01 as in diffusers' examples.
            batch_size: pictures a step.
            passes: passes over the pictures, unless `steps` is set.
            steps: optimiser steps, over as many passes as they need.
            drop: share of emptied prompts.
            anchor_weight: weight of staying near the loaded denoiser.

        Returns:
            The denoiser's tensors on the CPU and the mean loss over all pictures used (NaN without any).

        """
        self.load_tensors(start)
        if len(pictures) == 0:
            return self._copies(), float("nan")
        latents, known = self._encode_pictures(pictures), self._encode_texts(["", *prompts])
        scheduler = generator_io.ddim(self.parts.scheduler)
        optimiser = torch.optim.AdamW(self.tensors.values(), lr=lr, weight_decay=0.01)
        per_pass = -(-len(pictures) // batch_size)
        total_steps = passes * per_pass if steps is None else steps
        anchor = {n.partition("/")[2]: t for n, t in self.start.items()} if anchor_weight else {}
        total, used, order = 0.0, 0, torch.zeros(0, dtype=torch.long)
        for step in range(total_steps):
            if step % per_pass == 0:
                order = torch.randperm(len(pictures), generator=rng)
            chosen = order[step % per_pass * batch_size :][:batch_size]
            x = latents[chosen]
            noise = torch.randn(x.shape, generator=rng).to(x)
            times = torch.randint(len(scheduler.alphas_cumprod), (len(chosen),), generator=rng)
            emptied = (torch.rand(len(chosen), generator=rng) < drop).tolist()
            texts = [prompts[i] if not e else "" for i, e in zip(chosen.tolist(), emptied, strict=True)]
            states = torch.stack([known[text] for text in texts])
            times = times.to(self.device)
            noisy = scheduler.add_noise(x, noise, times)
            predicted = self._predict(noisy, times, states)
            target = noise if self._predicts == "epsilon" else scheduler.get_velocity(x, noise, times)
            error = (predicted - target).square().flatten(1).mean(1)
            if anchor_weight:
                with torch.no_grad():
                    before = self._predict(noisy, times, states, anchor)
                error = error + anchor_weight * (predicted - before).square().flatten(1).mean(1)
            loss = (weights[chosen].to(error) * error).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total, used = total + loss.item() * len(chosen), used + len(chosen)
        for parameter in self.tensors.values():
            parameter.grad = None
        return self._copies(), total / used if used else float("nan")

    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.tensors.items()}

    @property
    def _predicts(self) -> str:
        return str(self.parts.scheduler.config.prediction_type)

    @property
    def _shape(self) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.in_channels, config.sample_size, config.sample_size

    def _predict(
        self, x: Tensor, times: Tensor, texts: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The denoiser's prediction, with `tensors` in place of its own if any."""
        options = {"encoder_hidden_states": texts, "return_dict": False}
        if tensors:
            return functional_call(self.denoiser, dict(tensors), (x, times), options)[0]  # type: ignore[no-any-return]
        return self.denoiser(x, times, **options)[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _encode_pictures(self, pictures: Tensor, batch: int = 64) -> Tensor:
        """uint8 (N, channels, size, size) to the denoiser's input: pixels in [-1, 1], or the mean latents, scaled."""
        if pictures.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(
                f"pictures are {tuple(pictures.shape[1:])}, but the generator's are {(self.channels, self.size, self.size)}"
            )
        done = []
        for part in torch.split(pictures, batch):
            x = part.to(self.device).float() / 127.5 - 1
            if self.autoencoder is not None:
                x = self.autoencoder.encode(x).latent_dist.mode() * self.autoencoder.config.scaling_factor
            done.append(x)
        return torch.cat(done)

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str], batch: int = 64) -> dict[str, Tensor]:
        """Each different text as (tokens, width), padded to all tokens as in Stable Diffusion."""
        tokenizer, unique = PlainTokenizer(self.parts.tokenizer), list(dict.fromkeys(texts))
        states_of: dict[str, Tensor] = {}
        for first in range(0, len(unique), batch):
            part = unique[first : first + batch]
            rows = [
                tokenizer(text, padding="max_length", max_length=self.parts.tokens, truncation=True)
                for text in part
            ]
            ids = {n: torch.tensor([row[n] for row in rows]) for n in ("input_ids", "attention_mask")}
            masked = getattr(self.text_encoder.config, "use_attention_mask", False)
            mask = ids["attention_mask"].to(self.device) if masked else None
            states = self.text_encoder(ids["input_ids"].to(self.device), attention_mask=mask)[0]
            states_of.update(zip(part, states, strict=True))
        return states_of
