"""Bytes are ids, and nothing is learned."""

import numpy as np

from tinygpt.components.tokenizers.byte import ByteConfig


def test_ids_are_end_of_text_and_the_bytes_behind_it() -> None:
    tokenizer = ByteConfig().train(iter([]))
    assert tokenizer.vocab_size == 257
    assert tokenizer.eot_id == 0
    assert tokenizer.encode("\0aé") == [1, 1 + ord("a"), 1 + 0xC3, 1 + 0xA9]
    assert tokenizer.decode_bytes(np.arange(257)) == bytes(range(256))


def test_no_document_is_read_to_learn_from() -> None:
    documents = iter(["once"])
    ByteConfig().train(documents)
    assert next(documents) == "once"
