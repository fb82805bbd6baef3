"""Decoding of several sequences in one call of `LanguageModel.forward`.  N slots, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from tinygpt.language_model import LanguageModel


class SlotDecoder:
    """A `Decoder` over a model with `new_slots`, for devices where a call costs more than its rows.

    Every step reads a token of all slots, so that its shapes, and with them the rounding, do not
    depend on how many sequences there are.  Rows that are not wanted write beyond the context
    window or where the next token of their sequence will be written.  Unlike other decoders a step
    may round otherwise than a prefill of the same tokens.
    """

    def __init__(self, model: LanguageModel, n_slots: int, *, seq_len: int) -> None:
        """Raises ValueError for a model without slots."""
        self.model, self.n_slots, self.capacity = model, n_slots, seq_len
        self._slots = model.new_slots(n_slots)
        if self._slots is None:
            raise ValueError("the model has no new_slots")
        self._device = next(model.parameters()).device
        self._lengths = [0] * n_slots

    def prefill(
        self, slot: int, tokens: Sequence[int], *, every: bool = False
    ) -> npt.NDArray[np.float32]:
        """See `Decoder`."""
        cache = self.model.new_cache()
        with torch.no_grad():
            logits = self.model(torch.tensor([list(tokens)], device=self._device), cache=cache)[0]
            self._slots.put(slot, cache)
        self._lengths[slot] = len(tokens)
        return _float32(logits if every else logits[-1])

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Decoder`; raises ValueError for a slot that is full."""
        if any(self._lengths[slot] >= self.capacity for slot in slots):
            raise ValueError(f"{self.capacity + 1} tokens do not fit into seq_len={self.capacity}")
        by_slot = dict(zip(slots, tokens, strict=True))
        read = [by_slot.get(slot, 0) for slot in range(self.n_slots)]
        with torch.no_grad():
            self._slots.positions.copy_(torch.tensor(self._lengths))
            self._slots.reads.copy_(torch.tensor([s in by_slot for s in range(self.n_slots)]))
            of_all = self.model(torch.tensor(read, device=self._device)[:, None], cache=self._slots)
        for slot in slots:
            self._lengths[slot] += 1
        return _float32(of_all[list(slots), 0])

    def copy(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._slots.copy(source, target)
        self._lengths[target] = self._lengths[source]


def _float32(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = logits.float().cpu().numpy()
    return array
