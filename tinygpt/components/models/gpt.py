"""GPT-2: learned positions, pre-LayerNorm, GELU, biases, embeddings tied to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import ModelConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.components.models.gpt_torch import GPT


@register("model")
@dataclass
class GPTConfig(ModelConfig):
    """The shape of a GPT-2; sizes with names are in conf/model/."""

    masks_documents: ClassVar[bool] = True
    name: str = "gpt"
    n_layer: int = 6  # depth: parameters and time grow in proportion
    n_head: int = 6  # attention patterns per layer; 32 to 64 channels each works well
    d_model: int = 384  # width: parameters and time grow with its square
    dropout: float = 0.0  # >0 only when data repeats

    def __post_init__(self) -> None:
        check_range("model.n_layer", self.n_layer, low=1, high=10_000)
        check_range("model.n_head", self.n_head, low=1, high=10_000)
        check_range("model.d_model", self.d_model, low=1, high=1_000_000)
        check_range("model.dropout", self.dropout, low=0, below=1)
        if self.d_model % self.n_head:
            low = self.d_model // self.n_head * self.n_head
            high = low + self.n_head
            nearest = f"nearest are {low} and {high}" if low else f"nearest is {high}"
            raise UserError(
                f"model.d_model={self.d_model} is not a multiple of model.n_head={self.n_head}; "
                f"{nearest}"
            )

    def build(self, *, vocab_size: int, seq_len: int) -> GPT:
        from tinygpt.components.models.gpt_torch import GPT

        return GPT(self, vocab_size=vocab_size, seq_len=seq_len)
