"""Text from a model: how the next token is drawn, and the loop that draws until the end.

V vocabulary.  A sample is a pure function of the weights, the settings, its prompt and how often
that prompt came before it: not of the other prompts, nor of their number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinygpt.errors import check_range

if TYPE_CHECKING:
    from tinygpt.language_model import LanguageModel

FloatArray = npt.NDArray[np.float64]


@dataclass
class SamplingConfig:
    """How a token is drawn from the model's distribution."""

    temperature: float = 0.8  # <1 is safer, >1 wilder, 0 always the likeliest token
    top_k: int | None = 50  # draw from the k likeliest only; fewer is safer, null is all
    top_p: float | None = (
        None  # of those, draw from the fewest tokens whose probabilities sum to this share
    )
    max_new_tokens: int = 256  # tokens per sample, unless the text ends before
    seed: int = 0  # another seed gives other samples

    def __post_init__(self) -> None:
        self.check_sampling()

    def check_sampling(self, prefix: str = "") -> None:
        """Raise UserError for a value out of range; the prefix is where the fields are typed."""
        check_range(f"{prefix}temperature", self.temperature, low=0, below=float("inf"))
        if self.top_k is not None:
            check_range(f"{prefix}top_k", self.top_k, low=1)
        if self.top_p is not None:
            check_range(f"{prefix}top_p", self.top_p, above=0, high=1)
        check_range(f"{prefix}max_new_tokens", self.max_new_tokens, low=1, high=10**9)
        check_range(f"{prefix}seed", self.seed, low=0, high=2**64 - 1)


def filtered_probabilities(logits: npt.NDArray[np.floating], config: SamplingConfig) -> FloatArray:
    """Probabilities (V,) to draw from, given logits (V,): temperature, then top-k, then top-p.

    Of equal logits the lower id counts as likelier, so that top_k=1 is greedy.  Of the tokens
    that top-k left, top-p (arXiv 1904.09751) keeps the fewest that hold that share.
    """
    scores = logits.astype(np.float64)
    probabilities = np.zeros_like(scores)
    if config.temperature == 0:
        probabilities[scores.argmax()] = 1.0
        return probabilities

    kept = np.arange(scores.size)
    if config.top_k is not None and config.top_k < scores.size:
        kept = np.flatnonzero(scores >= np.partition(scores, -config.top_k)[-config.top_k])
    kept = kept[np.argsort(-scores[kept], kind="stable")][: config.top_k]  # likeliest first

    weights = np.exp((scores[kept] - scores[kept[0]]) / config.temperature)
    weights /= weights.sum()
    if config.top_p is not None:
        before = np.cumsum(weights) - weights  # probability of all that are likelier
        kept, weights = kept[before < config.top_p], weights[before < config.top_p]
    probabilities[kept] = weights / weights.sum()
    return probabilities


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    config: SamplingConfig,
    seq_len: int,
    eot_id: int,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """New tokens for each prompt, in order, without the prompt and without the end of text.

    List a prompt several times for several samples of it; `on_token(index of the prompt, token)`
    hears of each token as it is drawn.  Samples are made one after the other: in a batch, the
    rounding of the logits would depend on how many there are.
    """
    import torch

    samples: list[list[int]] = []
    repeats: Counter[tuple[int, ...]] = Counter()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for index, prompt in enumerate(prompts):
                rng = np.random.default_rng([config.seed, repeats[tuple(prompt)]])
                repeats[tuple(prompt)] += 1
                samples.append([])
                tokens = _continue(model, [eot_id, *prompt], rng, config=config, seq_len=seq_len)
                for token in itertools.islice(tokens, config.max_new_tokens):
                    if token == eot_id:
                        break
                    samples[-1].append(token)
                    if on_token:
                        on_token(index, token)
    finally:
        model.train(was_training)
    return samples


def _continue(
    model: LanguageModel,
    tokens: list[int],
    rng: np.random.Generator,
    *,
    config: SamplingConfig,
    seq_len: int,
) -> Iterator[int]:
    """Draw one token after another, without end.

    When the window is full, its newest half is kept and read again, which leaves room for as many
    tokens as were dropped.  A model with a cache reads each token once between two such moments; a
    cache in constant memory has no window.
    """
    import torch

    device = next(model.parameters()).device
    cache, n_cached = model.new_cache(), 0
    window = tokens[-seq_len:] if model.bounded_cache else list(tokens)
    while True:
        new = torch.tensor([window[n_cached:]], device=device)
        if cache is None:
            logits = model(new)
        else:
            logits = model(new, cache=cache)
            n_cached = len(window)
        # drawn on the CPU in float64, so that the draw is the same wherever the model runs
        probabilities = filtered_probabilities(logits[0, -1].float().cpu().numpy(), config)
        window.append(int(rng.choice(probabilities.size, p=probabilities)))
        yield window[-1]
        if not model.bounded_cache:
            window, n_cached = window[-1:], 0
        elif len(window) > seq_len:
            window = window[-max(1, seq_len // 2) :]
            cache, n_cached = model.new_cache(), 0
