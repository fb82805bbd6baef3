"""A tokenizer of given pieces, and models small enough to be decoded in a moment."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.interfaces import Tokenizer
from tinygpt.language_model import LanguageModel


class Pieces(Tokenizer):
    """Ids are places in a list of byte strings; one of them is the end of text."""

    def __init__(self, pieces: Sequence[bytes], eot_id: int = 0) -> None:
        self.pieces, self.eot_id = list(pieces), eot_id

    @classmethod
    def of_ids(cls, n: int, eot_id: int = 0) -> "Pieces":
        """One character for each id, from A on."""
        return cls([bytes([65 + i]) for i in range(n)], eot_id)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(character.encode()) for character in text]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids if i != self.eot_id)

    def save(self, folder: Path) -> None: ...

    def fingerprint(self) -> str:
        return "pieces"


class Fixed(LanguageModel):
    """A model of somebody else's: no cache, and logits that depend on the last token only."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(logits)  # (V, V): row of the last token

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def cycle(n: int) -> Fixed:
    """After token t comes t + 1, after the last the first."""
    return Fixed(torch.eye(n).roll(1, dims=1) * 100)


def opinionated(*, vocab_size: int, seq_len: int, eot_id: int, **fields: object) -> GPT:
    """A random GPT whose logits differ from place to place, and seldom end the text."""
    torch.manual_seed(1)
    shape = {"n_layer": 2, "n_head": 2, "d_model": 16, **fields}
    model = GPTConfig(**shape).build(vocab_size=vocab_size, seq_len=seq_len)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("norm."):
                parameter.normal_()
        model.token_embedding.weight[eot_id] = 0  # its logit too, where others go up to 10
    return model.eval()


def greedy_by_full_forward(model: LanguageModel, tokens: Sequence[int], n: int) -> list[int]:
    """The n likeliest tokens, one after another, each by a forward over all before it."""
    tokens = list(tokens)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[-n:]
