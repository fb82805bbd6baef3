"""Decoding by `LanguageModel.forward`, for every model and device.  T time, V vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from tinygpt.language_model import LanguageModel


class TorchDecoder:
    """A `Decoder` over a model, with its cache if it has one; without, it reads all tokens again.

    It computes one sequence at a time: in a batch the rounding of the logits would depend on how
    many sequences there are.  Put the model into evaluation mode before.
    """

    def __init__(self, model: LanguageModel, n_slots: int, *, seq_len: int) -> None:
        self.model = model
        self.n_slots = n_slots
        self.capacity = seq_len if model.bounded_cache else None
        self._caches: list[Any] = [None] * n_slots
        self._tokens: list[list[int]] = [[] for _ in range(n_slots)]  # of models without a cache

    def prefill(
        self, slot: int, tokens: Sequence[int], *, every: bool = False
    ) -> npt.NDArray[np.float32]:
        """See `Decoder`."""
        self._caches[slot] = self.model.new_cache()
        self._tokens[slot] = []
        return self._read(slot, tokens, every=every)

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Decoder`."""
        return np.stack(
            [self._read(slot, [token]) for slot, token in zip(slots, tokens, strict=True)]
        )

    def copy(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._caches[target] = copy.deepcopy(self._caches[source])
        self._tokens[target] = list(self._tokens[source])

    def _read(
        self, slot: int, tokens: Sequence[int], *, every: bool = False
    ) -> npt.NDArray[np.float32]:
        cache, device = self._caches[slot], next(self.model.parameters()).device
        with torch.no_grad():
            if cache is None:
                self._tokens[slot] += tokens
                logits = self.model(torch.tensor([self._tokens[slot]], device=device))
            else:
                logits = self.model(torch.tensor([list(tokens)], device=device), cache=cache)
            of_last = logits[0] if every else logits[0, -1]
            result: npt.NDArray[np.float32] = of_last.float().cpu().numpy()
        return result
