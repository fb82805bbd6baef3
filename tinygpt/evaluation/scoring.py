"""Choices scored by likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tinygpt.corpus.shards import json_sha256, read_sealed, write_sealed
from tinygpt.errors import UserError
from tinygpt.evaluation import intervals, minimal_pairs, storyworld_items
from tinygpt.evaluation.minimal_pairs import Item
from tinygpt.interfaces import Finding, Findings, utf8_length

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Scorer, Subject
    from tinygpt.evaluation.suites.choices import ChoicesConfig

TIE = 1e-4  # nats; a smaller difference is rounding, and counts half
SHOWN = 3  # items of each kind that are kept as examples
_CONTEXT = 120  # characters of context in an example


def score_choices(config: ChoicesConfig, subject: Subject) -> Findings:
    """The numbers of `suite=choices`: the share of right choices for each kind, and their mean."""
    documents = subject.documents(limit=config.documents)
    items = known_items(documents, config, subject)
    if not items:
        raise UserError(
            f"suite=choices finds no place for a choice in {len(documents):,} validation "
            "documents; it knows English stories only, so type suite=likelihood,generation"
        )
    numbers: dict[str, Finding] = {}
    examples: dict[str, Any] = {}
    margins = {kind: compare_all(subject, found) for kind, found in items.items()}
    for kind, differences in margins.items():
        numbers[kind] = intervals.share(n_right(differences), len(differences), better="higher")
        examples[kind] = [
            {
                "context": item.context[-_CONTEXT:],
                "right": item.right[:_CONTEXT],
                "wrong": item.wrong[:_CONTEXT],
                "nats": round(difference, 4),
            }
            for item, difference in list(zip(items[kind], differences, strict=True))[:SHOWN]
        ]
    numbers["mean"] = intervals.mean_of_shares(list(numbers.values()))
    return Findings(numbers, examples)


def n_right(differences: Sequence[float]) -> float:
    """How many choices are right; a tie counts half."""
    return sum(1.0 if d > TIE else 0.5 if d >= -TIE else 0.0 for d in differences)


def known_items(
    documents: Sequence[str], config: ChoicesConfig, subject: Subject
) -> Mapping[str, Sequence[Item]]:
    """The items of each kind, from a file beside the prepared text if they were made before."""
    is_world = subject.cfg.dataset.name == "storyworld"
    settings = {"version": config.version, "items": config.items, "seed": config.seed}
    key = json_sha256({**settings, "world": is_world, "documents": documents})
    path = subject.prepared.folder / f"choices-{key[:16]}.json"
    if content := read_sealed(path):
        return {kind: [Item(**item) for item in items] for kind, items in content["items"].items()}
    made = minimal_pairs.build(documents, items=config.items, seed=config.seed)
    if is_world:  # its grammar knows more answers
        made |= storyworld_items.build(documents, items=config.items, seed=config.seed)
    with suppress(OSError):  # the folder may be another user's
        write_sealed(path, {"items": {k: [*map(asdict, items)] for k, items in made.items()}})
    return made


def compare_all(
    scorer: Scorer, items: Sequence[Item], *, batch_size: int | None = None
) -> list[float]:
    """By how many nats the right continuation of each item is likelier than the wrong one."""
    encode = scorer.tokenizer.encode
    texts = dict[str, None]()
    begun: dict[str, tuple[str, int]] = {}  # contexts: a text that begins so, and their tokens
    for item in items:
        right = item.context + item.right
        texts |= dict.fromkeys((right, item.context + item.wrong))
        if item.per_byte:
            tokens = encode(item.context)
            begun[item.context] = (right, len(tokens))
            if encode(right)[: len(tokens)] != tokens:  # a token crosses the border
                texts[item.context], begun[item.context] = None, (item.context, len(tokens))
    listed = list(texts)
    nats = dict(zip(listed, scorer.text_nats(listed, batch_size=batch_size), strict=True))

    def cost(item: Item, continuation: str) -> float:
        total = float(nats[item.context + continuation].sum())
        if item.per_byte:
            text, n_tokens = begun[item.context]
            return (total - float(nats[text][:n_tokens].sum())) / utf8_length(continuation)
        return total

    return [cost(item, item.wrong) - cost(item, item.right) for item in items]
