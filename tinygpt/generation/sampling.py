"""How the next token is drawn from the logits of a model.  V vocabulary.

A draw is a pure function of the logits, the settings, the tokens before it, the seed and the
repeat number of the prompt.  It is made on the CPU in float64, wherever the model runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError, check_range

FloatArray = npt.NDArray[np.float64]
_LARGEST_BIAS = 1e4  # logits are far smaller, so this forces or bans a token
_LONGEST_STOP = 1000  # characters
_NOT_GREEDY = ("top_k", "top_p", "min_p", "typical_p", "seed")  # ignored at temperature=0


@dataclass
class SamplingConfig:
    """How tokens are drawn from the model's distribution, and where a text ends.

    Penalties and logit_bias change the logits first.  Then come temperature, top_k, top_p, min_p
    and typical_p, in this order; each works on the probabilities that the one before has left.
    """

    temperature: float = 0.8  # <1 is safer, >1 wilder, 0 always the likeliest token
    top_k: int | None = 50  # draw from the k likeliest only; fewer is safer, null is all
    # draw from the fewest tokens whose probabilities sum to this share (arXiv 1904.09751)
    top_p: float | None = None
    # drop tokens less likely than this share of the likeliest one's probability (arXiv 2407.01082)
    min_p: float | None = None
    # draw from the tokens whose surprise is closest to the entropy; they hold this share (arXiv
    # 2202.00666)
    typical_p: float | None = None
    # logits of tokens in the prompt or text: divided by this if positive, else multiplied (arXiv
    # 1909.05858); 1 is off, more repeats less
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0  # subtracted from the logit of every token that the text has
    frequency_penalty: float = 0.0  # subtracted once for each time that the text has the token
    # no sequence of this many tokens comes twice in prompt and text; null is off
    no_repeat_ngram: int | None = None
    # added to logits, by token id, such as {13: -100} to ban token 13
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop: list[str] = field(default_factory=list)  # end the text before any of these
    ignore_eot: bool = False  # never draw the end of text: texts have max_new_tokens tokens
    max_new_tokens: int = 256  # tokens per sample, unless the text ends before
    seed: int = 0  # another seed gives other samples

    def __post_init__(self) -> None:
        self.check_sampling()

    def check_sampling(self, prefix: str = "") -> None:
        """Raise UserError for a value out of range; the prefix is where the fields are typed."""
        check_range(f"{prefix}temperature", self.temperature, low=0)
        check_range(f"{prefix}top_k", self.top_k, low=1)
        for name in ("top_p", "min_p", "typical_p"):
            check_range(prefix + name, getattr(self, name), above=0, high=1)
        check_range(f"{prefix}repetition_penalty", self.repetition_penalty, above=0, high=100)
        for name in ("presence_penalty", "frequency_penalty"):
            check_range(prefix + name, getattr(self, name), low=-100, high=100)
        check_range(f"{prefix}no_repeat_ngram", self.no_repeat_ngram, low=1)
        for token, bias in self.logit_bias.items():
            check_range(f"{prefix}logit_bias token", token, low=0)
            named = f"{prefix}logit_bias of token {token}"
            check_range(named, bias, low=-_LARGEST_BIAS, high=_LARGEST_BIAS)
        for text in self.stop:
            if not text:
                raise UserError(f"{prefix}stop holds an empty text, which every text contains")
            check_range(f"{prefix}stop: characters of a text", len(text), high=_LONGEST_STOP)
        check_range(f"{prefix}max_new_tokens", self.max_new_tokens, low=1, high=10**9)
        check_range(f"{prefix}seed", self.seed, low=0, high=2**64 - 1)

    def check_used(self) -> None:
        """Raise UserError for a typed setting that temperature=0 ignores."""
        defaults = {f.name: f.default for f in fields(SamplingConfig)}
        for name in _NOT_GREEDY if self.temperature == 0 else ():
            if (value := getattr(self, name)) not in (None, defaults[name]):
                raise UserError(
                    f"{name}={value} changes nothing at temperature=0, which always takes the "
                    f"likeliest token; leave out {name} or temperature"
                )

    def check_vocabulary(self, vocab_size: int, prefix: str = "") -> None:
        """Raise UserError if logit_bias names a token that the vocabulary does not have."""
        for token in self.logit_bias:
            if token >= vocab_size:
                raise UserError(
                    f"{prefix}logit_bias names token {token}, and the vocabulary has "
                    f"{vocab_size:,} tokens, from 0 to {vocab_size - 1}"
                )


def likeliest_first(
    logits: npt.NDArray[np.floating[Any]], config: SamplingConfig
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Tokens to draw from, likeliest first, and their probabilities, given logits (V,).

    Of equal logits the lower id counts as likelier, so that top_k=1 is greedy.
    """
    if config.temperature == 0:
        return np.array([logits.argmax()]), np.ones(1)
    kept = np.arange(logits.size)
    if config.top_k is not None and config.top_k < logits.size:
        kept = np.flatnonzero(logits >= np.partition(logits, -config.top_k)[-config.top_k])
    kept = kept[np.argsort(-logits[kept], kind="stable")][: config.top_k]
    scores = logits[kept].astype(np.float64)
    weights = np.exp((scores - scores[0]) / config.temperature)
    weights /= weights.sum()
    if config.top_p is not None:
        before = np.cumsum(weights) - weights  # probability of all that are likelier
        kept, weights = _renormalised(kept, weights, before < config.top_p)
    if config.min_p is not None:
        kept, weights = _renormalised(kept, weights, weights >= config.min_p * weights[0])
    if config.typical_p is not None:
        surprise = -np.log(weights, where=weights > 0, out=np.full_like(weights, -np.inf))
        entropy = (weights[weights > 0] * surprise[weights > 0]).sum()
        order = np.argsort(np.abs(surprise - entropy), kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        typical = np.zeros(kept.size, dtype=bool)
        typical[order[before < config.typical_p]] = True
        kept, weights = _renormalised(kept, weights, typical)
    return kept, weights / weights.sum()


def _renormalised(
    kept: npt.NDArray[np.int64], weights: FloatArray, chosen: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    weights = weights[chosen]
    return kept[chosen], weights / weights.sum()


class Sampler:
    """Draws the tokens of one sequence; it remembers what penalties depend on.

    `prompt` (without the end of text before it) and `repeat`, how often the same prompt came
    before, belong to the sequence.
    """

    def __init__(
        self, config: SamplingConfig, prompt: Sequence[int], *, repeat: int, eot_id: int
    ) -> None:
        self.config = config
        self.eot_id = eot_id
        self._random = np.random.default_rng([config.seed, repeat])
        self._in_text: Counter[int] = Counter()
        self._seen: set[int] = set()
        self._ngrams: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        self._newest: tuple[int, ...] = ()  # up to no_repeat_ngram - 1 tokens
        for token in prompt:
            self._see(token)

    def draw(self, logits: npt.NDArray[np.float32]) -> int | None:
        """The next token, given the model's logits (V,); None if the settings allow none.

        Raises UserError for logits that are not numbers.
        """
        changed = self._changed(logits)
        if not np.isfinite(highest := changed.max()):
            if highest == -np.inf:
                return None
            raise UserError(
                f"the model's largest logit is {highest}, so no token can be drawn; train again "
                "with a lower optimizer.lr"
            )
        tokens, probabilities = likeliest_first(changed, self.config)
        if self.config.temperature == 0:
            token = int(tokens[0])
        else:  # the inverse of the distribution function over ids, as numpy's `choice` has it
            order = np.argsort(tokens)
            cumulated = probabilities[order].cumsum()
            cumulated /= cumulated[-1]
            at = cumulated.searchsorted(self._random.random(), side="right")
            token = int(tokens[order[at]])
        self._in_text[token] += 1
        self._see(token)
        return token

    def _see(self, token: int) -> None:
        self._seen.add(token)
        if n := self.config.no_repeat_ngram:
            if len(self._newest) == n - 1:
                self._ngrams[self._newest].add(token)
            self._newest = (*self._newest, token)[-(n - 1) :] if n > 1 else ()

    def _changed(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
        """The logits after penalties, bans and biases; float64 if there are any."""
        config = self.config
        banned = set(self._ngrams.get(self._newest, ())) if config.no_repeat_ngram else set()
        banned.discard(self.eot_id)  # a text may always end
        if config.ignore_eot:
            banned.add(self.eot_id)
        penalised = (
            config.repetition_penalty != 1 or config.presence_penalty or config.frequency_penalty
        )
        if not (banned or penalised or config.logit_bias):
            return logits
        changed = logits.astype(np.float64)
        if config.repetition_penalty != 1 and self._seen:
            ids = np.fromiter(self._seen, np.int64)
            values, factor = changed[ids], config.repetition_penalty
            changed[ids] = np.where(values > 0, values / factor, values * factor)
        if (config.presence_penalty or config.frequency_penalty) and self._in_text:
            ids = np.fromiter(self._in_text, np.int64)
            counts = np.fromiter(self._in_text.values(), np.float64)
            changed[ids] -= config.presence_penalty + config.frequency_penalty * counts
        for token, bias in config.logit_bias.items():
            changed[token] += bias
        changed[list(banned)] = -np.inf
        return changed


def log_softmax(logits: npt.NDArray[np.float32]) -> FloatArray:
    """Natural logarithms of the model's own probabilities (..., V), in float64."""
    scores = logits.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    return scores


def likeliest(log_probabilities: FloatArray, n: int) -> tuple[tuple[int, float], ...]:
    """The n likeliest tokens (all if there are fewer) with log-probabilities, likeliest first."""
    n = min(n, log_probabilities.size)
    if not n:
        return ()
    kept = np.flatnonzero(log_probabilities >= np.partition(log_probabilities, -n)[-n])
    kept = kept[np.argsort(-log_probabilities[kept], kind="stable")][:n]
    return tuple((int(token), float(log_probabilities[token])) for token in kept)
