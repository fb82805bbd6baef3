"""minGRU: a recurrence in the place of attention, with memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import check_range
from tinygpt.interfaces import ModelConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.components.models.mingru_torch import MinGRU


@register("model")
@dataclass
class MinGRUConfig(ModelConfig):
    """Size of the network; it has no attention and no positions."""

    masks_documents: ClassVar[bool] = True
    name: str = "mingru"
    n_layer: int = 6  # depth: parameters and time grow in proportion
    d_model: int = 384  # width: parameters and time grow with its square
    expansion: float = 1.5  # numbers that a layer remembers, as a multiple of d_model
    dropout: float = 0.0  # >0 only when data repeats

    def __post_init__(self) -> None:
        check_range("model.n_layer", self.n_layer, low=1, high=10_000)
        check_range("model.d_model", self.d_model, low=1, high=1_000_000)
        check_range("model.expansion", self.expansion, above=0, high=16)
        check_range("model.dropout", self.dropout, low=0, below=1)

    @property
    def d_state(self) -> int:
        """Numbers that a layer remembers."""
        return max(1, round(self.expansion * self.d_model))

    def build(self, *, vocab_size: int, seq_len: int) -> MinGRU:
        from tinygpt.components.models.mingru_torch import MinGRU

        return MinGRU(self, vocab_size=vocab_size)
