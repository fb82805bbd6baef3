"""The loss: of logits, or of a linear output layer without all of its logits in memory.

B batch, T time, N tokens, C channels, V vocabulary; losses in nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.kernels import compute_dtype, kernels_for


class Blocks(NamedTuple):
    """How many logits are computed at a time, and how the vocabulary is padded."""

    elements: int
    multiple: int  # the vocabulary is padded to a multiple of this with rows of zeros


CPU_BLOCKS = Blocks(elements=1 << 25, multiple=1)
# large enough that launches do not matter, and rows of 128 bytes, without which tensor cores are
# slow (NVIDIA, "Matrix Multiplication Background User's Guide", "Requirements to Use Tensor Cores")
GPU_BLOCKS = Blocks(elements=1 << 27, multiple=64)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats over all targets (B, T); logits (B, T, V) predict them without another shift."""
    # float32: a log-sum-exp in bfloat16 would keep three digits of the loss
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None
) -> Tensor:
    """Mean nats of targets (N,) under logits x (N, C) times weight (V, C) transposed.

    With a softcap each logit l becomes softcap * tanh(l / softcap).

    The forward computes the gradients too, block by block, so that only one block of logits exists
    at a time.
    """
    dtype = compute_dtype(x)
    if dtype == torch.float16:  # gradients this small are lost unless the loss is scaled before
        logits = F.linear(x, weight).float()
        if softcap is not None:
            logits = softcap * (logits / softcap).tanh()
        return F.cross_entropy(logits, targets)
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(x, weight, targets, dtype, needs_grad, softcap)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        needs_grad: bool,
        softcap: float | None,
    ) -> Tensor:
        n_tokens, n_vocab = len(x), len(weight)
        blocks = CPU_BLOCKS if x.device.type == "cpu" else GPU_BLOCKS
        exact = torch.promote_types(dtype, torch.float32)
        kernels = kernels_for(x, dtype)
        w = kernels.rounded(weight, dtype)
        if n_vocab % blocks.multiple:
            w = F.pad(w, (0, 0, 0, -n_vocab % blocks.multiple))
        nats = torch.zeros((), dtype=exact, device=x.device)
        d_x: list[Tensor] = []
        d_weight: Tensor | None = None
        rows = max(1, blocks.elements // len(w))
        for start in range(0, n_tokens, rows):
            block = slice(start, start + rows)
            x_block = x[block].to(dtype)
            logits = kernels.linear(x_block, w)
            slope = None if softcap is None else kernels.softcap_(logits, softcap)
            scale = 1 / n_tokens if needs_grad else None
            nats += kernels.cross_entropy_(logits[:, :n_vocab], targets[block], scale)
            if needs_grad:  # logits are their own gradients now; those of the zeros are still 0
                if slope is not None:
                    logits.mul_(slope)
                d_x.append(kernels.linear_backward(logits, w))
                part = kernels.linear_weights(logits, x_block, weight.dtype)
                if len(part) > n_vocab:  # only then: autograd adds to no view in place
                    part = part[:n_vocab]
                d_weight = part if d_weight is None else d_weight.add_(part)
        if needs_grad:
            ctx.save_for_backward(torch.cat(d_x), d_weight)
            ctx.x_dtype = x.dtype
        return nats / n_tokens

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_weight = ctx.saved_tensors
        return d_x.to(ctx.x_dtype).mul_(grads[0]), d_weight.mul_(grads[0]), None, None, None, None
