"""A decoder-only transformer.  B batch, T time, C d_model, H heads, D = C / H, V vocabulary.

By default it is GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.3.  The switches of `GPTConfig` choose other parts; each cites its source where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.components.models.parts.attention import (
    Attention,
    LayerCache,
    SlotLayerCache,
    attention_mask,
    first_keys,
)
from tinygpt.components.models.parts.decoding import network_of
from tinygpt.components.models.parts.embeddings import NgramEmbedding
from tinygpt.components.models.parts.feedforward import MLP, SwiGLU
from tinygpt.components.models.parts.norms import norm_of
from tinygpt.components.models.parts.positions import Rotation, rotation
from tinygpt.kernels import NotBuiltError, fuses
from tinygpt.kernels.block import BlockKind, BlockParameters, Masks, block_forward
from tinygpt.kernels.decode import TransformerDecoder
from tinygpt.kernels.formulas import Norm
from tinygpt.kernels.loss import linear_cross_entropy
from tinygpt.kernels.stream import mix
from tinygpt.kernels.stream import norm as fused_norm
from tinygpt.language_model import Decoder, LanguageModel, Role

if TYPE_CHECKING:
    from tinygpt.components.models.gpt import GPTConfig

INIT_STD = 0.02
NGRAM_ROWS = 1 << 14
# the switches that a block's kernels do not have all values of, and those that they have
_KERNELS_NEED = {
    "feedforward": ("gelu", "relu2", "swiglu"),
    "value_residual": (False,),
    "value_embeddings": (False,),
}
# those of GPT-2's block, whose formulas are quicker than autograd without fused kernels too
_FORMULAS_NEED = {
    "positions": ("learned", "none"),
    "norm": ("layernorm",),
    "norm_gain": (True,),
    "sandwich_norm": (False,),
    "bias": (True,),
    "qk_norm": (False,),
    "feedforward": ("gelu",),
    "value_residual": (False,),
    "value_embeddings": (False,),
}


class Block(nn.Module):
    """Attention, then the feed-forward layer; each is normalised before and added to its input.

    - sandwich_norm normalises what they add as well, as Gemma 2 (arXiv 2408.00118, section 2).
    - x0_shortcut: a block reads a learned mixture of the stream and the embedded tokens, at first
      1 and 0 of them, as the speedrun of GPT-2 (KellerJordan/modded-nanogpt, train_gpt.py).
    """

    def __init__(self, config: GPTConfig, *, layer: int, vocab_size: int) -> None:
        super().__init__()
        norm = norm_of(config.norm, gain=config.norm_gain, shift=config.bias, eps=config.norm_eps)
        width, d_ff, dropout = config.d_model, config.ff_width, config.dropout
        self.kind = BlockKind(
            n_head=config.n_head,
            n_kv_head=config.n_kv_head or config.n_head,
            eps=config.norm_eps,
            rms=config.norm == "rmsnorm",
            activation=config.feedforward,
            qk_norm=config.qk_norm,
            sandwich=config.sandwich_norm,
        )
        self.shortcut = nn.Parameter(torch.tensor([1.0, 0.0])) if config.x0_shortcut else None
        # every other layer has value embeddings, the last one included
        has_values = config.value_embeddings and layer % 2 == (config.n_layer - 1) % 2
        self.attention_norm = norm(width)
        self.attention = Attention(
            d_model=width,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head or config.n_head,
            bias=config.bias,
            dropout=dropout,
            qk_norm=norm if config.qk_norm else None,
            mixes_values=config.value_residual and layer > 0,
            value_vocab=vocab_size if has_values else None,
        )
        self.attention_post_norm = norm(width) if config.sandwich_norm else None
        self.mlp_norm = norm(width)
        self.mlp: MLP | SwiGLU
        if config.feedforward == "swiglu":
            self.mlp = SwiGLU(d_model=width, d_ff=d_ff, bias=config.bias, dropout=dropout)
        else:
            self.mlp = MLP(
                d_model=width,
                d_ff=d_ff,
                activation=config.feedforward,
                bias=config.bias,
                dropout=dropout,
            )
        self.mlp_post_norm = norm(width) if config.sandwich_norm else None

    def forward(
        self,
        x: Tensor,
        *,
        x0: Tensor,
        cache: LayerCache | SlotLayerCache | None = None,
        mask: Tensor | None = None,
        by: Rotation | None = None,
        tokens: Tensor | None = None,
        first_values: Tensor | None = None,
        masks: Masks | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, T, C) to the next block's, and the values of its attention if autograd ran it.

        x0 (B, T, C) is the first block's x.  With `masks` the kernels run the block; otherwise
        autograd does, with the arguments of `Attention`.
        """
        if self.shortcut is not None and masks is not None and fuses(x):
            x = mix(x, x0, self.shortcut)
        elif self.shortcut is not None:
            x = self.shortcut[0] * x + self.shortcut[1] * x0
        if masks is not None:
            parameters = self.kernel_parameters()
            return block_forward(x, parameters, self.kind, rotation=by, masks=masks), None
        update, values = self.attention(
            self.attention_norm(x),
            cache=cache,
            mask=mask,
            by=by,
            tokens=tokens,
            first_values=first_values,
        )
        x = x + (self.attention_post_norm(update) if self.attention_post_norm else update)
        update = self.mlp(self.mlp_norm(x))
        return x + (self.mlp_post_norm(update) if self.mlp_post_norm else update), values

    def kernel_parameters(self) -> BlockParameters:
        """The weights in the order in which the kernels take them."""
        attention, mlp = self.attention, self.mlp
        gate = mlp.gate if isinstance(mlp, SwiGLU) else None
        return BlockParameters(
            *_weights(self.attention_norm),
            *_weights(attention.qkv),
            *_weights(attention.out),
            *_weights(self.mlp_norm),
            *_weights(mlp.up),
            *_weights(mlp.down),
            *_weights(gate),
            *_weights(attention.q_norm),
            *_weights(attention.k_norm),
            *_weights(self.attention_post_norm),
            *_weights(self.mlp_post_norm),
        )


def _weights(module: nn.Module | None) -> tuple[Any, Any]:
    """Weight and bias of a linear layer or a norm, each a tensor or None."""
    return getattr(module, "weight", None), getattr(module, "bias", None)


def without_kernels(config: GPTConfig) -> list[str]:
    """The switches of a config, as typed, for which a block has no kernels."""
    return [
        f"model.{name}={str(getattr(config, name)).lower()}"
        for name, values in _KERNELS_NEED.items()
        if getattr(config, name) not in values
    ]


def is_gpt2(config: GPTConfig) -> bool:
    """Whether blocks are those of GPT-2."""
    values = all(getattr(config, name) in values for name, values in _FORMULAS_NEED.items())
    return values and config.n_kv_head in (None, config.n_head)


@dataclass
class Cache:
    """What a generation remembers: keys and values of each layer, and the newest tokens."""

    layers: list[LayerCache]
    newest: Tensor | None = field(default=None)  # (B, up to ngram - 1)

    @property
    def length(self) -> int:
        """Positions seen so far."""
        return self.layers[0].length


class SlotCache:
    """What N generations remember that are at different positions, in tensors of fixed shapes."""

    def __init__(self, config: GPTConfig, n_slots: int, seq_len: int, device: torch.device) -> None:
        self.positions = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self.reads = torch.zeros(n_slots, dtype=torch.bool, device=device)
        self.layers = [SlotLayerCache(self.positions, seq_len) for _ in range(config.n_layer)]
        # (N, ngram - 1); -1 is no token
        self.newest = torch.full((n_slots, config.ngram - 1), -1, device=device)

    def put(self, slot: int, cache: Cache) -> None:
        """Make a slot hold what the cache of one sequence holds."""
        for layer, of in zip(self.layers, cache.layers, strict=True):
            layer.put(slot, of)
        if cache.newest is not None:
            self.newest[slot] = -1
            self.newest[slot, self.newest.size(1) - cache.newest.size(1) :] = cache.newest[0]

    def copy(self, source: int, target: int) -> None:
        """Make one slot hold what another one holds."""
        for layer in self.layers:
            layer.copy(source, target)
        self.newest[target] = self.newest[source]

    def mask(self, seq_len: int, window: int | None) -> Tensor:
        """(N, 1, 1, S): True for the positions that each sequence sees."""
        keys = torch.arange(seq_len + 1, device=self.positions.device)
        newest = self.positions[:, None]
        seen = keys <= newest
        if window is not None:
            seen &= keys > newest - window
        return seen[:, None, None]


class GPT(LanguageModel):
    """Tokens in, logits out. The names of its parameters are those in checkpoints."""

    def __init__(self, config: GPTConfig, *, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.seq_len = seq_len
        self.config = config
        self.uses_kernels = False
        norm = norm_of(config.norm, gain=config.norm_gain, shift=config.bias, eps=config.norm_eps)
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)
        self.position_embedding = (
            nn.Embedding(seq_len, config.d_model) if config.positions == "learned" else None
        )
        self.ngram_embedding = None
        if config.ngram > 1:
            rows = config.ngram_rows or NGRAM_ROWS
            self.ngram_embedding = NgramEmbedding(n=config.ngram, rows=rows, d_model=config.d_model)
        self.embedding_norm = norm(config.d_model) if config.embedding_norm else None
        self.blocks = nn.ModuleList(
            Block(config, layer=layer, vocab_size=vocab_size) for layer in range(config.n_layer)
        )
        self.norm = norm(config.d_model)
        self.head = None if config.tied else nn.Linear(config.d_model, vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        # every block adds two outputs to the residual stream: scaled so that their sum stays put
        residual_std = 0.0 if self.config.zero_init else INIT_STD / (2 * len(self.blocks)) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                nn.init.normal_(parameter, std=residual_std)
            elif name.endswith("value_gate.weight") or name.startswith("ngram_embedding."):
                nn.init.zeros_(parameter)
            elif name == "token_embedding.weight":
                nn.init.normal_(parameter, std=self.config.embedding_std)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.config.copy_init:
            self._initialise_copying()

    @torch.no_grad()
    def _initialise_copying(self) -> None:
        """Values and outputs of the last attention are the identity, so that it adds what it sees.

        After Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers" (arXiv
        2305.09828): in trained language models values times outputs are near a positive multiple of
        the identity.  The output matrix begins as the embedding if it is not tied to it.  So the
        tokens that attention sees are more likely at once, and what is left to learn is where to
        look.
        """
        attention = self.blocks[-1].attention
        assert isinstance(attention, Attention)
        nn.init.eye_(attention.qkv.weight[-self.config.d_model :])
        nn.init.eye_(attention.out.weight)
        attention.out.weight.mul_(self.config.copy_init)
        self.output_weight.copy_(self.token_embedding.weight)

    @property
    def output_weight(self) -> Tensor:
        """The matrix (V, C) that makes logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def new_cache(self) -> Cache:
        """An empty cache; pass it to every call of one generation."""
        return Cache([LayerCache(self.seq_len) for _ in self.blocks])

    def new_slots(self, n_slots: int) -> SlotCache:
        """See LanguageModel."""
        return SlotCache(self.config, n_slots, self.seq_len, self.token_embedding.weight.device)

    def decoder(self, n_slots: int, *, weights: str = "auto") -> Decoder | None:
        """See LanguageModel: in C on a CPU with gcc; auto is fp32, so that tokens stay the same."""
        parameter = self.token_embedding.weight
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return None
        try:
            chosen = "fp32" if weights == "auto" else weights
            return TransformerDecoder(network_of(self), n_slots=n_slots, weights=chosen)
        except NotBuiltError:
            return None

    def use_kernels(self, on: bool) -> list[str]:
        """See LanguageModel."""
        lacking = without_kernels(self.config)
        self.uses_kernels = on and not lacking
        return [f"blocks ({', '.join(lacking)})"] if on and lacking else []

    def roles(self) -> dict[str, Role]:
        """See LanguageModel."""
        roles = super().roles()
        return roles if self.head is None else roles | {"head.weight": Role.HEAD}

    def output_norm(self) -> list[str]:
        """See LanguageModel."""
        return [f"norm.{name}" for name, _ in self.norm.named_parameters()]

    def stacked(self) -> dict[str, tuple[int, ...]]:
        """See LanguageModel."""
        return {
            f"{name}.qkv.weight": module.rows
            for name, module in self.named_modules()
            if isinstance(module, Attention)
        }

    def flops_per_token(self) -> int:
        """See LanguageModel: with attention over the window and a tied output matrix.

        Attention is counted as if it were not causal: PaLM (arXiv 2204.02311), appendix B.
        """
        config, tied = self.config, self.token_embedding.weight if self.head is None else None
        seen = min(self.seq_len, config.window or self.seq_len)
        of_attention = 12 * config.n_layer * config.d_model * seen
        return super().flops_per_token() + of_attention + 6 * (0 if tied is None else tied.numel())

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | SlotCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T) to logits (B, T, V): position t sees tokens up to and including t.

        With a cache the tokens follow those of the calls before; with slots, tokens (N, 1) are at
        the positions that the slots say. With documents (B, T), ids that
        grow from one to the next, it sees only its own; positions count on through all of them.
        Raises ValueError beyond seq_len.
        """
        logits = F.linear(self.hidden(tokens, cache, documents), self.output_weight)
        cap = self.config.logit_softcap  # Gemma 2 (arXiv 2408.00118), section 2
        return logits if cap is None else cap * (logits / cap).tanh()

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """See LanguageModel: equal to the default's, without all logits in memory at once."""
        hidden = self.hidden(tokens, documents=documents)
        return linear_cross_entropy(
            hidden.flatten(0, 1),
            self.output_weight,
            targets.flatten(),
            softcap=self.config.logit_softcap,
        )

    def hidden(
        self,
        tokens: Tensor,
        cache: Cache | SlotCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T) to what the output matrix reads, (B, T, C)."""
        config = self.config
        assert cache is None or documents is None, "a cache is of one document"
        if isinstance(cache, SlotCache):
            end = 1  # the caller counts
            positions = cache.positions[:, None]
        else:
            start = cache.length if cache else 0
            end = start + tokens.size(1)
            positions = torch.arange(start, end, device=tokens.device)
        if end > self.seq_len:
            raise ValueError(f"{end} tokens do not fit into seq_len={self.seq_len}")
        x = self._embedded(tokens, positions, cache, documents)
        mask = by = masks = None
        hides = documents is not None or (config.window or end) < end
        dropped = config.dropout > 0 and self.training
        by_kernels = fuses(x) or (is_gpt2(config) and not dropped)
        if self.uses_kernels and cache is None and by_kernels:
            starts = None
            if hides:
                starts = first_keys(tokens.shape, window=config.window, documents=documents)
            masks = Masks.draw(starts, config.dropout if dropped else 0.0)
        elif isinstance(cache, SlotCache):
            mask = cache.mask(self.seq_len, config.window)
        elif cache or hides:
            mask = attention_mask(
                *(tokens.size(1), end),
                window=config.window,
                documents=documents,
                device=tokens.device,
            )
        if config.positions == "rope":
            by = rotation(positions, d_head=config.d_model // config.n_head, base=config.rope_base)
            if isinstance(cache, SlotCache):
                by = Rotation(by.cos[:, None], by.sin[:, None])  # of each sequence: (N, 1, 1, D)
        x0, first_values = x, None
        for i, block in enumerate(self.blocks):
            x, values = block(
                x,
                x0=x0,
                cache=cache.layers[i] if cache else None,
                mask=mask,
                by=by,
                tokens=tokens,
                first_values=first_values,
                masks=masks and masks.of_block(i),
            )
            if i == 0 and config.value_residual:
                first_values = values
        return self._normed(x, self.norm, cache)

    def _normed(self, x: Tensor, module: nn.Module, cache: Cache | SlotCache | None) -> Tensor:
        """A norm outside of blocks: LayerNorm is fused in torch, RMSNorm by our kernels."""
        by_kernels = self.uses_kernels and cache is None and fuses(x)
        if isinstance(module, nn.RMSNorm) and by_kernels:
            return fused_norm(x, Norm(module.weight, None, self.config.norm_eps, rms=True))
        normed: Tensor = module(x)
        return normed

    def _embedded(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: Cache | SlotCache | None,
        documents: Tensor | None,
    ) -> Tensor:
        """Tokens (B, T) to what the first block reads, (B, T, C)."""
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            # a slot that is not of this call may be full
            x = x + self.position_embedding(positions.clamp(max=self.seq_len - 1))
        if self.ngram_embedding is not None:
            before = cache.newest if cache else None
            x = x + self.ngram_embedding(tokens, before, documents)
            if cache:
                known = tokens if before is None else torch.cat((before, tokens), 1)
                newest = known[:, 1 - self.config.ngram :]
                if isinstance(cache, SlotCache):
                    newest = torch.where(cache.reads[:, None], newest, cache.newest)
                cache.newest = newest
        if self.embedding_norm is not None:
            x = self._normed(x, self.embedding_norm, cache)
        return F.dropout(x, self.config.dropout, self.training)
