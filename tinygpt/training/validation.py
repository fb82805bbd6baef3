"""The part of the validation split that a run evaluates."""

from tinygpt.training.batches import TokenData


class Validation:
    """The pinned part of the validation split: its first documents, of up to `max_bytes` UTF-8.

    The limit is in bytes, so that the text is the same for every tokenizer. There is at least one
    document, however long, because half of it would end elsewhere in each tokenizer's tokens.
    """

    def __init__(self, prepared: TokenData, *, max_bytes: int | None) -> None:
        ends = prepared.document_ends("validation")
        fits = len(ends) if max_bytes is None else max(1, int((ends[:, 1] <= max_bytes).sum()))
        info = prepared.splits["validation"]
        self.documents, self.all_documents = fits, len(ends)
        n_tokens, self.utf8_bytes = map(int, ends[fits - 1])
        self.tokens = prepared.tokens("validation")[:n_tokens]
        self.checksum = prepared.text_checksum("validation", fits)
        # the floor is known for the whole split only
        self.floor_bpb = info.floor_bpb if fits == len(ends) else None
