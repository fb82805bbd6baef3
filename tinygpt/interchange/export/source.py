"""The model to export, and its logits, ids and greedy text, which the checks compare."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer
from tinygpt.language_model import LanguageModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
GREEDY_TOKENS = 40
_TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    " a  leading space, two  spaces, a trailing one ",
    "\n\nnewlines\nand\ttabs\r\n",
    "na\u00efve caf\u00e9, \u4f60\u597d, e\u0301, \ufb01, \U0001f469\u200d\U0001f4bb",
    "<|endoftext|> </s> <s> [UNK] <0x0A>",
    "\u2581\u2585 \u2581Once\u2581upon",
    "NUL \0 and others \x01\x7f",
    "",
)


@dataclass(frozen=True)
class Source:
    """A trained model on the CPU with its tokenizer, and what its run folder says about it."""

    run: Path
    checkpoint: str  # the name of its folder, step-00000100
    cfg: RunConfig
    model: LanguageModel  # in evaluation mode, without kernels
    tokenizer: Tokenizer
    prompts: tuple[str, ...]  # beginnings of texts of its data
    bpb: float | None  # bits per byte of the validation text
    dtype: str = "fp32"  # of the weights in the export
    license: str = "unknown"

    @property
    def seq_len(self) -> int:
        """The longest sequence that the model takes."""
        return self.cfg.trainer.seq_len

    @cached_property
    def reference(self) -> LanguageModel:
        """The model with weights rounded to `dtype`, which the other tool should agree with."""
        model = copy.deepcopy(self.model).float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(parameter.to(DTYPES[self.dtype]))
                if not parameter.isfinite().all():
                    raise UserError(
                        f"dtype={self.dtype} cannot hold {name}, which has values above "
                        f"{torch.finfo(DTYPES[self.dtype]).max:g}; use dtype=fp32"
                    )
        return model

    def texts(self) -> list[str]:
        """Texts whose ids are compared: of the data, special cases, random Unicode."""
        rng = random.Random(0)
        randoms = ["".join(map(_character, [rng] * rng.randrange(1, 40))) for _ in range(100)]
        return [*self.prompts, *_TEXTS, *randoms]

    def windows(self) -> Tensor:
        """Random ids (2, T) of full length."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.tokenizer.vocab_size, (2, self.seq_len), generator=generator)

    def prompt_ids(self) -> list[list[int]]:
        """Beginnings of texts, each with the end of text before it and room for 40 tokens more."""
        room = max(1, self.seq_len - GREEDY_TOKENS)
        prompts = ["", *self.prompts, "Once upon a time"]
        return [
            [self.tokenizer.eot_id, *self.tokenizer.encode(prompt)][:room] for prompt in prompts
        ]

    def greedy(self, ids: Sequence[int]) -> list[int]:
        """The likeliest tokens after ids that begin with the end of text, up to the next one."""
        known = list(ids)
        for _ in range(min(GREEDY_TOKENS, self.seq_len - len(ids))):
            token = int(logits_of(self.reference, torch.tensor([known]))[0, -1].argmax())
            if token == self.tokenizer.eot_id:
                break
            known.append(token)
        return known[len(ids) :]

    def shortfall(self, ids: Sequence[int], new: Sequence[int]) -> float:
        """How far below the likeliest any of the tokens `new` after `ids` was, in logits.

        0 if they are greedy text; rounding may choose another of two tokens that are nearly equal.
        """
        logits = logits_of(self.reference, torch.tensor([[*ids, *new]]))[0, len(ids) - 1 : -1]
        chosen = logits.gather(-1, torch.tensor(new, dtype=torch.int64)[:, None])[:, 0]
        return float((logits.amax(-1) - chosen).max()) if new else 0.0


def _character(rng: random.Random) -> str:
    point = rng.randrange(rng.choice((0x80, 0x80, 0x800, 0x3000, 0x110000)))
    return chr(point) if not 0xD800 <= point < 0xE000 else " "


def logits_of(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits (B, T, V) of tokens (B, T), without gradients."""
    with torch.no_grad():
        logits: Tensor = model(tokens)
    return logits


def require(holds: bool, source: Source, complaint: str) -> None:
    """Raise UserError if another tool computes something else than we do."""
    if not holds:
        raise UserError(f"the export of {source.run} was not kept: {complaint}; please report this")
