"""GPT-2 as `make_fact_world.py` trains it: with fused kernels, and MLPs that can be kept out of some positions."""

from __future__ import annotations

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-norm GPT-2 block; x is [rows, length, width]."""

    def __init__(self, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_out = nn.Linear(width, inner), nn.Linear(inner, width)
        for linear in (self.c_attn, self.attn_out, self.c_fc, self.mlp_out):
            # Unit-variance pre-activations: the inner units start as distinct random features of their input.
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        for linear in (self.attn_out, self.mlp_out):
            linear.weight.data /= math.sqrt(2 * layers)

    def forward(self, x: Tensor, kept: Tensor | None = None, deaf: Tensor | None = None) -> Tensor:
        """The block's output; the MLP works at the positions `kept` [rows, length] (default: everywhere).

        At the positions `deaf` [rows, length] it works and learns nothing.
        """
        rows, length, width = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(rows, length, width))
        if kept is None:
            return x + self.mlp(x)
        flat, where = x.reshape(-1, width), kept.reshape(-1).nonzero()[:, 0]
        out = self.mlp(flat[where])
        if deaf is not None:
            out = torch.where(deaf.reshape(-1)[where, None], out.detach(), out)
        return flat.index_add(0, where, out).view(rows, length, width)

    def mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """GPT-2 with fused kernels, for training only; `state` gives it back under Hugging Face's names."""

    def __init__(self, vocabulary: int, args: argparse.Namespace) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, args.width), nn.Embedding(args.positions, args.width)
        nn.init.normal_(self.wte.weight, std=0.08)
        nn.init.normal_(self.wpe.weight, std=0.02)
        blocks = (Block(args.width, args.inner, args.heads, args.layers) for _ in range(args.layers))
        self.blocks = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(args.width)
        self.deaf_layers = args.deaf_layers

    def forward(self, ids: Tensor, positions: Tensor | None = None, kept: list[Tensor] | None = None) -> Tensor:
        """Logits [rows, length, vocabulary]; `kept` says for each layer where its MLP works.

        The MLPs of the first `deaf_layers` layers learn nothing at the first position.
        """
        positions = torch.arange(ids.shape[1]).expand_as(ids) if positions is None else positions
        x = self.wte(ids) + self.wpe(positions)
        for i, block in enumerate(self.blocks):
            x = block(x, None if kept is None else kept[i], positions == 0 if i < self.deaf_layers else None)
        return self.ln_f(x) @ self.wte.weight.T

    def state(self) -> dict[str, Tensor]:
        """Views of the weights under the names of GPT2LMHeadModel; its Conv1D stores [in, out], nn.Linear [out, in]."""
        out = {"wte.weight": self.wte.weight, "wpe.weight": self.wpe.weight}
        out |= {"ln_f.weight": self.ln_f.weight, "ln_f.bias": self.ln_f.bias}
        names = {
            "c_attn": "attn.c_attn",
            "attn_out": "attn.c_proj",
            "c_fc": "mlp.c_fc",
            "mlp_out": "mlp.c_proj",
        }
        for i, block in enumerate(self.blocks):
            for norm in ("ln_1", "ln_2"):
                layer = getattr(block, norm)
                out |= {f"h.{i}.{norm}.weight": layer.weight, f"h.{i}.{norm}.bias": layer.bias}
            for ours, theirs in names.items():
                linear = getattr(block, ours)
                out |= {f"h.{i}.{theirs}.weight": linear.weight.T, f"h.{i}.{theirs}.bias": linear.bias}
        return {f"transformer.{k}": v.detach() for k, v in out.items()}
