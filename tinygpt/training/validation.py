"""The part of the validation split that a run evaluates."""

from tinygpt.corpus.prepared import Prepared


class Validation:
    """The pinned part of the validation split: its first documents, of up to `max_bytes` UTF-8.

    At least one: a novel has no second one, and half a document would end elsewhere in each
    tokenizer's tokens.

    Bytes, not tokens: then it is the same text for every tokenizer.
    """

    def __init__(self, prepared: Prepared, *, max_bytes: int | None) -> None:
        ends = prepared.document_ends("validation")
        fits = len(ends) if max_bytes is None else max(1, int((ends[:, 1] <= max_bytes).sum()))
        info = prepared.splits["validation"]
        self.documents, self.all_documents = fits, len(ends)
        n_tokens, self.utf8_bytes = map(int, ends[fits - 1])
        self.tokens = prepared.tokens("validation")[:n_tokens]
        self.checksum = prepared.text_checksum("validation", fits)
        # the floor is known for the whole split only
        self.floor_bpb = info.floor_bpb if fits == len(ends) else None
