"""Models of random weights with tokenizers of a few stories, as sources of exports."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tinygpt import registry
from tinygpt.components.datasets.storyworld.config import story
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.byte import ByteTokenizer
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.components.tokenizers.hf import HFTokenizer
from tinygpt.config import compose
from tinygpt.interchange.export.source import Source
from tinygpt.interfaces import Tokenizer

SEQ_LEN = 48
SIZE = ("model.n_layer=2", "model.n_head=4", "model.d_model=32")


@cache
def stories(n: int = 200) -> list[str]:
    return [story(0, "train", index).text for index in range(n)]


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharConfig().train(iter(stories()))
    if kind == "bpe":
        return BPEConfig(vocab_size=500).train(iter(stories()))
    assert kind == "hf"
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(stories(), trainer)
    settings = json.loads(library.to_str()) | {"normalizer": {"type": "NFC"}}
    return HFTokenizer(json.dumps(settings).encode(), None, where="a test")


@cache
def config_of(model: str, switches: tuple[str, ...]) -> Any:
    registry.import_all()
    settings = [f"model={model}", *SIZE, *switches, f"trainer.seq_len={SEQ_LEN}"]
    settings += ["trainer.micro_batch_size=1", f"trainer.tokens_per_step={SEQ_LEN}"]
    return compose.compose("train", [*settings, "dataset=storyworld", "tokenizer=byte"])


def source(
    run: Path, model: str = "nano", *switches: str, tokenizer: str = "byte", **kwargs: Any
) -> Source:
    """All parameters are random, so that each counts; `switches` are those of the model."""
    cfg, words = config_of(model, switches), tokenizer_of(tokenizer)
    torch.manual_seed(0)
    network = cfg.model.build(vocab_size=words.vocab_size, seq_len=SEQ_LEN).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.15)
    prompts = ("Nora was",)
    return Source(run, "step-00000010", cfg, network, words, prompts, 1.25, **kwargs)
