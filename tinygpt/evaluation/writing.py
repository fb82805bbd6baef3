"""Stories that the model writes, measured beside the stories that it was held out from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinygpt.components.datasets.storyworld.grammar import NotAStory
from tinygpt.components.datasets.storyworld.plots import STORYWORLD
from tinygpt.evaluation import intervals, text_measures
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interfaces import Finding, Findings

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject
    from tinygpt.evaluation.suites.generation import GenerationConfig

SPAN = 8  # tokens of the spans whose copies are counted
KNOWN_BYTES = 50_000_000  # of training text that known words are taken from
SHOWN = 5  # stories that are kept as examples
Better = Literal["higher", "lower"]


def measure(config: GenerationConfig, subject: Subject) -> Findings:
    """The numbers of `suite=generation`; each `data/...` is the same measure of held-out text."""
    held_out = subject.documents(limit=config.documents)
    prompts = [beginning(text, config.prompt_words) for text in held_out[: config.samples]]
    sampling = SamplingConfig(
        temperature=config.temperature,
        top_k=config.top_k,
        max_new_tokens=config.max_new_tokens or _usual_length(subject, config.documents),
        seed=config.seed,
    )
    new = subject.generate(prompts, sampling)
    decode = subject.tokenizer.decode
    texts = [p + decode(ids) for p, ids in zip(prompts, new, strict=True)]
    data = held_out[: len(texts)]
    ended = sum(len(ids) < sampling.max_new_tokens for ids in new)
    numbers = {"ends": intervals.share(ended, len(new), better="higher")}
    known = _known_words(subject, [*texts, *data])
    of_text: dict[str, tuple[Callable[[str], float | None], Better | None]] = {
        "words": (lambda text: float(len(text.split())), None),
        "repeated_4grams": (text_measures.repeated, "lower"),
        "unknown_words": (lambda text: text_measures.unknown_words(text, known), "lower"),
        "balanced_quotes": (lambda text: float(text_measures.has_balanced_quotes(text)), "higher"),
        "kept_names": (text_measures.kept_names, "higher"),
    }
    for name, (of, better) in of_text.items():
        for prefix, group in (("", texts), ("data/", data)):
            values = [value for text in group if (value := of(text)) is not None]
            if values:
                numbers[prefix + name] = intervals.mean(values, better=None if prefix else better)
    for prefix, group in (("", texts), ("data/", data)):
        for n in (1, 2, 3):
            if (share := text_measures.distinct(group, n)) is not None:
                numbers[f"{prefix}distinct_{n}"] = Finding(share, n=len(group))
        if alike := text_measures.self_bleu(group):
            numbers[f"{prefix}self_bleu"] = intervals.mean(alike, better=None)
    for n in (1, 2):
        if (apart := text_measures.distance(texts, held_out, n)) is not None:
            numbers[f"distance_{n}grams"] = Finding(apart, n=len(texts), better="lower")
    _add_copies(numbers, config, subject, new, data)
    notes = _add_grammar(numbers, texts, data)
    examples: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "stories": [
            {"prompt": p, "text": t} for p, t in list(zip(prompts, texts, strict=True))[:SHOWN]
        ],
    }
    if subject.cfg.dataset.name == "storyworld":
        examples["left_the_grammar"] = _add_storyworld(numbers, config, subject, sampling)
    # max_new_tokens ends stories, so no number is independent of the tokenizer
    numbers = {name: replace(number, of_tokens=True) for name, number in numbers.items()}
    return Findings(numbers, examples, notes)


def _usual_length(subject: Subject, documents: int) -> int:
    """Tokens that 99 % of the first held-out documents have at most."""
    ends = np.asarray(subject.prepared.document_ends("validation")[:documents])[:, 0]
    return int(np.percentile(np.diff(ends, prepend=1), 99))


def beginning(text: str, n_words: int) -> str:
    """The first words of a text, with the space between them; "" for 0 words."""
    match = re.match(rf"\s*(?:\S+\s+){{0,{max(0, n_words - 1)}}}\S+", text) if n_words else None
    return match[0] if match else ""


def _known_words(subject: Subject, texts: Sequence[str]) -> set[str]:
    """The words of the texts that training documents have, in the first KNOWN_BYTES."""
    known: set[str] = set()
    wanted, size = text_measures.vocabulary(texts), 0
    for text in subject.prepared.documents("train"):
        if not wanted or size > KNOWN_BYTES:
            break
        found = text_measures.vocabulary([text]) & wanted
        known |= found
        wanted -= found
        size += len(text)
    return known


def _add_copies(
    numbers: dict[str, Finding],
    config: GenerationConfig,
    subject: Subject,
    new: Sequence[Sequence[int]],
    data: Sequence[str],
) -> None:
    """The longest copied span, and the share of spans that training text has."""
    stream = subject.prepared.tokens("train")
    train = np.asarray(stream[: min(len(stream), config.copy_tokens)], dtype=np.int64)
    own = [subject.tokenizer.encode(text) for text in data]
    for prefix, group in (("", new), ("data/", own)):
        longest = text_measures.longest_copies(group, train)
        share = text_measures.share_of_copies(group, train, SPAN)
        # less is no better: better models share more with training text, up to what data shares
        numbers[f"{prefix}longest_copy"] = intervals.mean(longest, better=None)
        numbers[f"{prefix}copied_{SPAN}grams"] = Finding(share, n=len(group))


def _add_grammar(
    numbers: dict[str, Finding], texts: Sequence[str], data: Sequence[str]
) -> list[str]:
    """Lints of a grammar checker per 1,000 words, if it is installed; notes say if not."""
    try:
        import harper
    except ImportError:
        return ["grammar is not measured; for it type pip install 'tinygpt[eval]'"]
    linter = harper.Linter()
    for prefix, group in (("", texts), ("data/", data)):
        lints = [float(len(linter.lint(text))) for text in group]
        thousands = [max(1, len(text.split())) / 1000 for text in group]
        better: Better | None = None if prefix else "lower"
        numbers[f"{prefix}grammar_lints"] = intervals.ratio(lints, thousands, better=better)
    return []


def _add_storyworld(
    numbers: dict[str, Finding],
    config: GenerationConfig,
    subject: Subject,
    sampling: SamplingConfig,
) -> list[str]:
    """How many whole stories the grammar accepts, and where it does not understand the others."""
    new = subject.generate([""] * config.samples, sampling)
    texts = [subject.tokenizer.decode(ids) for ids in new]
    reasons, read = [], []
    for text in texts:
        try:
            STORYWORLD.read(text)
            read.append(1.0)
        except NotAStory as reason:
            reasons.append(str(reason))
            place = re.search(r"at character (\d+)", str(reason))
            read.append(int(place[1]) / max(1, len(text)) if place else 0.0)
    accepted = len(texts) - len(reasons)
    numbers["accepted"] = intervals.share(accepted, len(texts), better="higher")
    numbers["accepted_until"] = intervals.mean(read, better="higher")
    return reasons[:SHOWN]
