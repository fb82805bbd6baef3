"""How likely a decoder holds a text to be, to compare the ways of holding its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tinygpt.language_model import Decoder


def window_nats(decoder: Decoder, tokens: Sequence[int], *, seq_len: int) -> float:
    """Nats of all tokens but the first, in consecutive windows of seq_len as in validation.

    Divided by the text's UTF-8 bytes and ln 2 it is the val/bpb of these weights.  Uses slot 0.
    """
    nats = 0.0
    for start in range(0, len(tokens) - 1, seq_len):
        window = np.asarray(tokens[start : start + seq_len + 1])
        logits = decoder.prefill(0, window[:-1].tolist(), every=True).astype(np.float64)
        largest = logits.max(-1)
        norm = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
        nats += float((norm - logits[np.arange(len(logits)), window[1:]]).sum())
    return nats
