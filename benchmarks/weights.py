"""Measure what weights in bf16 and int8 cost a run in bits per byte.

    python -m benchmarks.weights outputs/RUN

Prints val/bpb of the run's best checkpoint as the decoder in C computes it with weights in fp32,
bf16 and int8, over the part of the validation split that training evaluates.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from tinygpt import console, registry
from tinygpt.errors import UserError
from tinygpt.evaluation.subject import Subject
from tinygpt.generation.likelihood import window_nats

WEIGHTS = ("fp32", "bf16", "int8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    raise SystemExit(console.guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weights",
        description="Measure what weights in bf16 and int8 cost a run in bits per byte.",
    )
    parser.add_argument("run", type=Path, help="a run folder")
    args = parser.parse_args(arguments)
    registry.import_all()
    subject = Subject(args.run, device="cpu", say=print, warn=console.warn)
    tokens, n_bytes = subject.pinned.tokens.tolist(), subject.pinned.utf8_bytes
    exact = None
    for weights in WEIGHTS:
        decoder = subject.model.decoder(1, weights=weights)
        if decoder is None:
            raise UserError(f"{args.run} has no decoder in C: it needs Linux, gcc and model=gpt")
        nats = window_nats(decoder, tokens, seq_len=subject.seq_len).sum()
        bpb = float(nats) / math.log(2) / n_bytes
        exact = bpb if exact is None else exact
        print(f"{weights}  {bpb:.6f} bits per byte  {100 * (bpb / exact - 1):+.4f} %", flush=True)
    return 0


if __name__ == "__main__":
    main()
