"""The part of the validation split that a run evaluates."""

from collections.abc import Iterator

from tinygpt.training.batches import Ids, TokenData, eval_batches


class Validation:
    """The pinned part of the validation split: its first documents, of up to `max_bytes` UTF-8.

    The limit is in bytes, so that the text is the same for every tokenizer. There is at least one
    document, however long, because half of it would end elsewhere in each tokenizer's tokens.
    `window` is that of the dataset: windows follow each other, or begin with documents.
    """

    def __init__(
        self,
        prepared: TokenData,
        *,
        max_bytes: int | float | str | None,
        window: str = "packed",
    ) -> None:
        ends = prepared.document_ends("validation")
        limit = len(ends) if max_bytes is None else int((ends[:, 1] <= int(max_bytes)).sum())
        fits = max(1, limit)
        info = prepared.splits["validation"]
        self.documents, self.all_documents = fits, len(ends)
        n_tokens, self.utf8_bytes = map(int, ends[fits - 1])
        self.tokens = prepared.tokens("validation")[:n_tokens]
        self.checksum = prepared.text_checksum("validation", fits)
        # the floor is known for the whole split only
        self.floor_bpb = info.floor_bpb if fits == len(ends) else None
        self._ends = ends[:fits] if window == "document" else None

    def batches(self, *, seq_len: int, batch_size: int) -> Iterator[Ids]:
        """Its tokens in the windows of an evaluation, as `eval_batches`."""
        return eval_batches(
            self.tokens, seq_len=seq_len, batch_size=batch_size, document_ends=self._ends
        )
