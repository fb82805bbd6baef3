"""How likely a decoder holds a text to be, to compare the ways of holding its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinygpt.generation.sampling import log_softmax

if TYPE_CHECKING:
    from tinygpt.language_model import Decoder


def window_nats(
    decoder: Decoder, tokens: Sequence[int], *, seq_len: int
) -> npt.NDArray[np.float64]:
    """Nats of each token but the first, in consecutive windows of seq_len as in validation.

    Their sum, divided by the text's UTF-8 bytes and ln 2, is the val/bpb of these weights.  Uses
    slot 0.
    """
    nats: list[float] = []
    for start in range(0, len(tokens) - 1, seq_len):
        window = tokens[start : start + seq_len + 1]
        rows = decoder.prefill(0, window[:-1], every=True)
        nats += [-log_softmax(row)[token] for row, token in zip(rows, window[1:], strict=True)]
    return np.array(nats)
