"""A tokenizer.json, made here: the tests have no network."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE as GPT-2's is, with other ids; <|endoftext|> is the last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    story = "the a small fox saw ran over green hill and then slept under bright star."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([story, "\n".join(story.split())] * 10, trainer)
    tokenizer.add_special_tokens(["<|pad|>", "<|endoftext|>"])
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    tokenizer.save(str(path))
    return path
