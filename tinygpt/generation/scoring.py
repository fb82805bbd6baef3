"""How likely given continuations are after a prompt.  V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinygpt.errors import UserError
from tinygpt.generation.sampling import log_softmax

if TYPE_CHECKING:
    from tinygpt.language_model import Decoder


def score(
    decoder: Decoder, prompt: Sequence[int], continuations: Sequence[Sequence[int]], *, eot_id: int
) -> list[float]:
    """Nats of each continuation after the prompt: minus the sum of its tokens' log-probabilities.

    The end-of-text token is put before the prompt, which is read once.  Uses all slots of the
    decoder.  If prompt and longest continuation do not fit into the context window together, the
    oldest tokens of the prompt are left out, the same for all continuations.  Raises UserError for
    a continuation without tokens, or longer than the window.
    """
    window, longest = [eot_id, *prompt], max(map(len, continuations), default=0)
    for number, continuation in enumerate(continuations, 1):
        if not continuation:
            raise UserError(f"continuation {number} has no tokens, so it has no probability")
    if decoder.capacity is not None:
        # the last token of a continuation is predicted and not read
        room = decoder.capacity - (longest - 1)
        if room < 1:
            raise UserError(
                f"a continuation has {longest} tokens, and the context window "
                f"{decoder.capacity}; shorten it"
            )
        window = window[-room:]
    nats = [0.0] * len(continuations)
    source = decoder.n_slots - 1
    first = log_softmax(decoder.prefill(source, window))
    for i, continuation in enumerate(continuations):
        nats[i] -= float(first[continuation[0]])
    begun = [i for i, continuation in enumerate(continuations) if len(continuation) > 1]
    n_together = max(1, decoder.n_slots - 1)
    for start in range(0, len(begun), n_together):
        slots = {i: slot for slot, i in enumerate(begun[start : start + n_together])}
        for slot in slots.values():
            if slot != source:
                decoder.copy(source, slot)
            elif start:
                decoder.prefill(slot, window)  # the only slot, which has read a continuation
        at = 1
        while slots:
            read = [continuations[i][at - 1] for i in slots]
            rows = log_softmax(decoder.step(list(slots.values()), read))
            for i, row in zip(slots, rows, strict=True):
                nats[i] -= float(row[continuations[i][at]])
            at += 1
            slots = {i: slot for i, slot in slots.items() if len(continuations[i]) > at}
    return nats
