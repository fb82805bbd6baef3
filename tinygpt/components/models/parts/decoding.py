"""What the decoder in C needs to know of a transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinygpt.components.models.parts.feedforward import SwiGLU
from tinygpt.components.models.parts.positions import rotation
from tinygpt.kernels.decode import Layer, Linear, Network, Norm

if TYPE_CHECKING:
    from tinygpt.components.models.gpt_torch import GPT, Block


def network_of(model: GPT) -> Network:
    """The sizes, switches and weights of a model."""
    config, tables = model.config, model.ngram_embedding
    position_embedding = model.position_embedding
    return Network(
        n_head=config.n_head,
        n_kv_head=config.n_kv_head or config.n_head,
        capacity=model.seq_len,
        feedforward=config.feedforward,
        rms_norm=config.norm == "rmsnorm",
        eps=config.norm_eps,
        token_embedding=model.token_embedding.weight,
        layers=[_layer(block) for block in model.blocks],  # type: ignore[arg-type]  # all are
        norm=_norm(model.norm),
        head=model.output_weight,
        window=config.window,
        softcap=config.logit_softcap,
        position_embedding=None if position_embedding is None else position_embedding.weight,
        rotation=_rotation(model) if config.positions == "rope" else None,
        ngram_tables=[] if tables is None else [_weight(table) for table in tables.tables],
        embedding_norm=_norm_or_none(model.embedding_norm),
    )


def _layer(block: Block) -> Layer:
    attention, mlp = block.attention, block.mlp
    values, gate = attention.value_embedding, attention.value_gate
    return Layer(
        attention_norm=_norm(block.attention_norm),
        qkv=_linear(attention.qkv),
        out=_linear(attention.out),
        mlp_norm=_norm(block.mlp_norm),
        up=_linear(mlp.up),
        down=_linear(mlp.down),
        gate=_linear(mlp.gate) if isinstance(mlp, SwiGLU) else None,
        attention_post_norm=_norm_or_none(block.attention_post_norm),
        mlp_post_norm=_norm_or_none(block.mlp_post_norm),
        q_norm=_norm_or_none(attention.q_norm),
        k_norm=_norm_or_none(attention.k_norm),
        shortcut=block.shortcut,
        value_mix=attention.value_mix,
        value_embedding=None if values is None else values.weight,
        value_gate=None if gate is None else gate.weight,
    )


def _linear(layer: nn.Linear) -> Linear:
    return Linear(layer.weight, layer.bias)


def _norm(layer: nn.Module) -> Norm:
    """RMSNorm has no shift, and without gain a norm has neither."""
    return Norm(getattr(layer, "weight", None), getattr(layer, "bias", None))


def _norm_or_none(layer: nn.Module | None) -> Norm | None:
    return None if layer is None else _norm(layer)


def _weight(table: nn.Module) -> Tensor:
    assert isinstance(table, nn.Embedding)
    return table.weight


def _rotation(model: GPT) -> tuple[Tensor, Tensor]:
    """Cosines and sines (seq_len, D / 2): `rotation` repeats them for the other half."""
    d_head = model.config.d_model // model.config.n_head
    both = rotation(torch.arange(model.seq_len), d_head=d_head, base=model.config.rope_base)
    return both.cos[:, : d_head // 2], both.sin[:, : d_head // 2]
