"""A decoder-only transformer: GPT-2 by default, and by switches Llama, Qwen3 and others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import UserError, check_choice, check_range
from tinygpt.interfaces import ModelConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.components.models.gpt_torch import GPT

POSITIONS = ("learned", "rope", "none")
NORMS = ("layernorm", "rmsnorm")
FEEDFORWARDS = ("gelu", "gelu_erf", "relu2", "swiglu")
ROPE_BASE = 10_000.0


@register("model")
@dataclass
class GPTConfig(ModelConfig):
    """Size and architecture; switches default to those of GPT-2, presets are in conf/model/."""

    masks_documents: ClassVar[bool] = True
    name: str = "gpt"
    n_layer: int = 6  # depth: parameters and time grow in proportion
    n_head: int = 6  # attention patterns per layer; 32 to 64 channels each works well
    d_model: int = 384  # width: parameters and time grow with its square
    dropout: float = 0.0  # >0 only when data repeats
    # attention
    n_kv_head: int | None = (
        None  # heads of keys and values; fewer than n_head makes the cache small
    )
    window: int | None = None  # newest positions that attention sees; null sees all
    qk_norm: bool = False  # normalise queries and keys: steadier at high learning rates
    positions: str = "learned"  # learned, rope or none
    rope_base: float = ROPE_BASE  # larger turns more slowly, for longer sequences
    # feed-forward layer
    # gelu (tanh form, as GPT-2), gelu_erf (exact form, as nanoGPT), relu2 or swiglu
    feedforward: str = "gelu"
    d_ff: int | None = (
        None  # its width; null is 4 d_model, for swiglu 8/3 d_model as a multiple of 16
    )
    # norms and biases
    norm: str = "layernorm"  # layernorm or rmsnorm
    norm_gain: bool = True  # false leaves norms without parameters
    norm_eps: float = 1e-5  # added to the variance
    sandwich_norm: bool = False  # normalise what a layer adds, too
    bias: bool = True  # of linear layers, and shifts of layernorm
    # embeddings and output
    tied: bool = True  # one matrix embeds tokens and makes logits
    embedding_norm: bool = False  # normalise the embedded tokens
    logit_softcap: float | None = None  # logits stay within this size; 15 to 30 is usual
    ngram: int = 1  # embed the last 2 to ngram tokens by hash; for characters and bytes
    ngram_rows: int | None = None  # rows of each such table; null is 16384
    embedding_std: float = 0.02  # of token embeddings at first; larger keeps tokens apart
    # residual stream
    zero_init: bool = False  # what layers add begins at zero
    copy_init: float = 0.0  # >0: the last attention begins by copying what it sees, times this
    x0_shortcut: bool = False  # each block also sees the embedded tokens, by learned weights
    value_residual: bool = False  # values of the first layer are mixed into all others
    value_embeddings: bool = False  # every other layer's values get an embedding of the token

    def __post_init__(self) -> None:
        check_range("model.n_layer", self.n_layer, low=1, high=10_000)
        check_range("model.n_head", self.n_head, low=1, high=10_000)
        check_range("model.d_model", self.d_model, low=1, high=1_000_000)
        check_range("model.n_kv_head", self.n_kv_head, low=1, high=self.n_head)
        check_range("model.window", self.window, low=1)
        check_range("model.d_ff", self.d_ff, low=1, high=4_000_000)
        check_range("model.ngram_rows", self.ngram_rows, low=1, high=1 << 30)
        check_range("model.dropout", self.dropout, low=0, below=1)
        check_range("model.rope_base", self.rope_base, above=1)
        check_range("model.norm_eps", self.norm_eps, above=0)
        check_range("model.ngram", self.ngram, low=1, high=8)
        check_range("model.embedding_std", self.embedding_std, above=0, high=10)
        check_range("model.copy_init", self.copy_init, low=0, high=10)
        check_range("model.logit_softcap", self.logit_softcap, above=0)
        check_choice("model.positions", self.positions, POSITIONS)
        check_choice("model.feedforward", self.feedforward, FEEDFORWARDS)
        check_choice("model.norm", self.norm, NORMS)
        self._check_heads()
        self._check_nothing_is_ignored()

    def _check_heads(self) -> None:
        if self.d_model % self.n_head:
            low = self.d_model // self.n_head * self.n_head
            high = low + self.n_head
            nearest = f"nearest are {low} and {high}" if low else f"nearest is {high}"
            raise UserError(
                f"model.d_model={self.d_model} is not a multiple of model.n_head={self.n_head}; "
                f"{nearest}"
            )
        if self.n_kv_head is not None and self.n_head % self.n_kv_head:
            choices = [str(n) for n in range(1, self.n_head + 1) if self.n_head % n == 0]
            raise UserError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}; "
                f"use one of {', '.join(choices)}"
            )
        if self.positions == "rope" and self.d_model // self.n_head % 2:
            raise UserError(
                f"model.positions=rope rotates pairs, and d_model / n_head = {self.d_model} / "
                f"{self.n_head} = {self.d_model // self.n_head} is odd; use another model.n_head"
            )

    def _check_nothing_is_ignored(self) -> None:
        if self.rope_base != ROPE_BASE and self.positions != "rope":
            raise UserError(
                f"model.rope_base={self.rope_base:g} has no effect with "
                f"model.positions={self.positions}; use model.positions=rope"
            )
        if self.ngram_rows is not None and self.ngram == 1:
            raise UserError(
                f"model.ngram_rows={self.ngram_rows} has no effect with model.ngram=1; "
                "use model.ngram=2 or more"
            )
        if self.copy_init and self.n_kv_head not in (None, self.n_head):
            raise UserError(
                f"model.copy_init={self.copy_init:g} needs values of the model's width, and "
                f"model.n_kv_head={self.n_kv_head} makes them narrower; use model.n_kv_head=null"
            )
        if self.value_residual and self.n_layer == 1:
            raise UserError(
                "model.value_residual=true has no effect with model.n_layer=1; use model.n_layer=2 "
                "or more"
            )

    @property
    def ff_width(self) -> int:
        """The width of the feed-forward layer."""
        if self.d_ff is not None:
            return self.d_ff
        # a gate is a third matrix: at 8/3 all three have the weights of two at 4
        return -(-8 * self.d_model // 48) * 16 if self.feedforward == "swiglu" else 4 * self.d_model

    def build(self, *, vocab_size: int, seq_len: int) -> GPT:
        from tinygpt.components.models.gpt_torch import GPT

        return GPT(self, vocab_size=vocab_size, seq_len=seq_len)
