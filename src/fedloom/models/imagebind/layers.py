"""The parts of ImageBind: stems, attention that adapters can hook, trunks and heads; all batch-first."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedloom.models.imagebind.config import ModalityConfig

STEM_EPS = 1e-5
"""LayerNorm epsilon of the stems; the published model uses `TRUNK_EPS` everywhere else."""
TRUNK_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with separate q, k, v, o; its values equal those of `nn.MultiheadAttention`.

    With `bias_kv` a learned key and value join the projected ones; `causal` hides later tokens, never these.
    """

    def __init__(self, dim: int, heads: int, bias_kv: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim) for _ in range(4))
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            _xavier(linear)
        self.bias_k = nn.Parameter(torch.empty(1, 1, dim)) if bias_kv else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, dim)) if bias_kv else None
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.xavier_normal_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, d)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        mask = None
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k).expand(len(k), -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.to(v).expand(len(v), -1, -1)], dim=1)
            if self.causal:
                mask = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).tril()
                mask = functional.pad(mask, (0, 1), value=True)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal and mask is None
        )
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """d -> 4 d -> d with the exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        _xavier(self.fc1)
        _xavier(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


class DropPath(nn.Module):
    """Drops a residual branch per sample with probability `rate` while training, and rescales the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, d)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty(len(x), 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to its input."""

    def __init__(self, config: ModalityConfig, causal: bool, drop: float) -> None:
        super().__init__()
        dim = config.embed_dim
        self.attn = Attention(dim, config.heads, config.bias_kv, causal)
        self.mlp = MLP(dim)
        self.norm_1, self.norm_2 = nn.LayerNorm(dim, eps=TRUNK_EPS), nn.LayerNorm(dim, eps=TRUNK_EPS)
        self.drop_path: nn.Module = DropPath(drop) if drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, n, d)."""
        x = x + self.drop_path(self.attn(self.norm_1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm_2(x)))
        return out


class Trunk(nn.Module):
    """The transformer of one modality; `gradient_checkpointing` trades a second forward for memory."""

    def __init__(self, config: ModalityConfig, drop_path: bool = False) -> None:
        super().__init__()
        dim, last = config.embed_dim, max(config.depth - 1, 1)
        rate = config.drop_path if drop_path else 0.0
        norm = [nn.LayerNorm(dim, eps=TRUNK_EPS)] if config.pre_norm else []
        self.pre_transformer_layer = nn.Sequential(*norm)
        causal = config.stem == "tokens"
        self.blocks = nn.ModuleList(Block(config, causal, rate * i / last) for i in range(config.depth))
        self.gradient_checkpointing = False
        self._recompute_options: dict[str, Any] = {}

    def set_gradient_checkpointing(self, enabled: bool = True, **options: Any) -> None:
        """Recompute each block in the backward pass; `options` go to `torch.utils.checkpoint.checkpoint`."""
        self.gradient_checkpointing, self._recompute_options = enabled, options

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, n, d) -> tokens (B, n, d)."""
        x = self.pre_transformer_layer(x)
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            for block in self.blocks:
                x = block(x)
            return x
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, **self._recompute_options)
        return x


class Stem(nn.Module):
    """Patches or windows of an input, projected to d, with CLS in front and learned positions added."""

    def __init__(self, config: ModalityConfig) -> None:
        super().__init__()
        dim, self.window = config.embed_dim, config.window
        self.frames = config.kernel[0] if config.stem == "frames" else 0
        channels = config.input_shape[0]
        self.proj: nn.Module
        if config.window is not None:
            self.proj = nn.Linear(channels * config.window, dim, bias=False)
        else:
            conv = nn.Conv3d if self.frames else nn.Conv2d
            self.proj = conv(channels, dim, config.kernel, config.step, bias=False)  # type: ignore[arg-type]
        self.norm_layer = None if config.pre_norm else nn.LayerNorm(dim, eps=STEM_EPS)
        std = 0.01 if config.window is not None else dim**-0.5
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens + 1, dim) * std)

    def forward(self, x: Tensor) -> Tensor:
        """One input per row -> tokens (B, n + 1, d), CLS first. A still image fills the kernel."""
        if self.window is not None:
            x = self.proj(x.unfold(-1, self.window, self.window).transpose(1, 2).flatten(2))
        else:
            if self.frames and x.dim() == 4:
                x = x.unsqueeze(2).expand(-1, -1, self.frames, -1, -1)
            x = self.proj(x).flatten(2).transpose(1, 2)
        if self.norm_layer is not None:
            x = self.norm_layer(x)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed


class TextStem(nn.Module):
    """Token embedding plus learned positions; no CLS, a text is read off where it ends."""

    def __init__(self, config: ModalityConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab or 1, config.embed_dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, config.embed_dim) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Ids (B, n) -> tokens (B, n, d)."""
        y: Tensor = self.token_embedding(x) + self.pos_embed
        return y


class Head(nn.Module):
    """LayerNorm and a projection without bias: (..., d) -> (..., out_dim)."""

    def __init__(self, config: ModalityConfig, out_dim: int, dropout: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embed_dim, eps=TRUNK_EPS)
        self.dropout = nn.Dropout(config.head_dropout if dropout else 0.0)
        self.proj = nn.Linear(config.embed_dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., out_dim)."""
        y: Tensor = self.proj(self.dropout(self.norm(x)))
        return y


class Scale(nn.Module):
    """Multiplies by exp(log_logit_scale), at most 100: a parameter for text, a constant elsewhere."""

    log_logit_scale: Tensor

    def __init__(self, config: ModalityConfig) -> None:
        super().__init__()
        value = torch.full((), math.log(config.scale))
        if config.scale_learnable:
            self.log_logit_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_logit_scale", value)

    def forward(self, x: Tensor) -> Tensor:
        """(..., out_dim) -> (..., out_dim)."""
        return x * self.log_logit_scale.exp().clamp(max=100.0)


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
