"""Bits per byte of held-out text, divided by place in the document, frequency and document."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError
from tinygpt.evaluation import intervals
from tinygpt.interfaces import Finding, Findings, utf8_length
from tinygpt.training.losses import bits_per_byte

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Nats, Subject
    from tinygpt.evaluation.suites.likelihood import LikelihoodConfig

PLACES = ((0, 32), (32, 128), (128, None))  # tokens of a document, counted from its beginning
RARE, COMMON = 1e-5, 1e-3  # share of the training tokens at which a token is rare or common
LONGEST = 1 << 25  # tokens of validation documents that are scored, from the beginning
COUNTED = 1 << 26  # training tokens that frequencies are counted over, from the beginning
SHOWN = 400  # characters of an example
Mask = npt.NDArray[np.bool_]


def measure(config: LikelihoodConfig, subject: Subject) -> Findings:
    """The numbers of `suite=likelihood`."""
    if config.overlap >= subject.seq_len:
        raise UserError(
            f"likelihood.overlap={config.overlap} must be below trainer.seq_len={subject.seq_len} "
            "of the run"
        )
    text = config.text()
    ends = np.asarray(subject.prepared.document_ends("validation")[:])
    whole = max(1, int((ends[:, 0] <= LONGEST).sum()))
    notes = [f"of {len(ends):,} validation documents the first {whole:,}"] * (whole < len(ends))
    ends = ends[:whole]
    stream = subject.prepared.tokens("validation")
    tokens = np.asarray(stream[: int(ends[-1, 0])], dtype=np.int64)
    nats = window_nats(subject, tokens, overlap=config.overlap)  # of tokens[1:]
    sizes = np.diff(ends[:, 1], prepend=0)  # UTF-8 bytes of each document
    starts = np.concatenate([[0], ends[:-1, 0] - 1])  # in nats: where each document begins
    per_document = np.add.reduceat(nats, starts)
    bits = per_document / math.log(2)
    numbers = {
        "bpb": Finding(subject.pinned_bpb(), n=subject.pinned.documents, better="lower"),
        "bpb_split": intervals.ratio(bits, sizes, better="lower"),
        "nats_per_token": _per_token(nats),
    }
    places = np.arange(len(nats)) - np.repeat(starts, np.diff(starts, append=len(nats)))
    for low, high in PLACES:
        inside = (places >= low) & (places < (high or len(nats) + 1))
        _add(numbers, f"nats_at/{low + 1}{'+' if high is None else f'-{high}'}", nats, inside)
    counts = _counts(subject)
    shares = counts[tokens[1:]] / counts.sum()
    _add(numbers, "nats_of/rare", nats, shares < RARE)
    _add(numbers, "nats_of/usual", nats, (shares >= RARE) & (shares < COMMON))
    _add(numbers, "nats_of/common", nats, shares >= COMMON)
    if text is not None:
        ids = np.array([subject.tokenizer.eot_id, *subject.tokenizer.encode(text)])
        own = window_nats(subject, ids, overlap=config.overlap)
        value = bits_per_byte(float(own.sum()), utf8_length(text))
        numbers["bpb_on_file"] = Finding(value, n=len(own), better="lower")
    examples = _examples(config, subject, tokens, starts, nats, bits / sizes)
    return Findings(numbers, examples, notes)


def window_nats(subject: Subject, tokens: npt.NDArray[np.int64], *, overlap: int) -> Nats:
    """Nats of each token but the first; each window repeats `overlap` tokens as context."""
    if not overlap:
        return subject.stream_nats(tokens)
    size = subject.seq_len
    found = [subject.stream_nats(tokens[: size + 1])]
    for start in range(size - overlap, len(tokens) - 1 - overlap, size - overlap):
        found.append(subject.stream_nats(tokens[start : start + size + 1])[overlap:])
    return np.concatenate(found)


def _add(numbers: dict[str, Finding], name: str, nats: Nats, inside: Mask) -> None:
    if inside.any():
        numbers[name] = _per_token(nats[inside])


def _per_token(nats: Nats) -> Finding:
    return replace(intervals.mean(nats, better="lower"), of_tokens=True)


def _counts(subject: Subject) -> npt.NDArray[np.int64]:
    """How often each id is in the training tokens, or in their first COUNTED."""
    stream, size = subject.prepared.tokens("train"), 1 << 20
    counts = np.zeros(subject.tokenizer.vocab_size, np.int64)
    for start in range(0, min(len(stream), COUNTED), size):
        counts += np.bincount(stream[start : start + size], minlength=len(counts))
    return counts


def _examples(
    config: LikelihoodConfig,
    subject: Subject,
    tokens: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    nats: Nats,
    bits_per_byte_of: Nats,
) -> dict[str, Any]:
    """The documents that the model finds easiest and hardest, with the surprise of each token."""
    order = np.argsort(bits_per_byte_of, kind="stable")
    chosen = {"easiest": order[: config.show], "hardest": order[::-1][: config.show]}
    ends = np.append(starts[1:], len(nats))

    def of(number: int) -> dict[str, Any]:
        ids = tokens[1 + starts[number] : ends[number]].tolist()  # without end of text
        return {
            "document": int(number),
            "bpb": float(bits_per_byte_of[number]),
            "text": subject.tokenizer.decode(ids)[:SHOWN],
            "tokens": [subject.tokenizer.decode([i]) for i in ids[:SHOWN]],
            "nats": [round(float(x), 4) for x in nats[starts[number] :][: len(ids[:SHOWN])]],
        }

    return {word: [of(int(number)) for number in numbers] for word, numbers in chosen.items()}
