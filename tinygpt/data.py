"""Data: show statistics of a dataset and its tokens, to choose a vocabulary."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygpt import console
from tinygpt.cli.arguments import parse_arguments, print_config, print_help
from tinygpt.config import DataConfig, compose, overrides
from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, utf8_length


@console.command
def main(arguments: Sequence[str]) -> None:
    """The entry point."""
    console.printing_the_result()
    args = parse_arguments("data", arguments)
    if args.help:
        print_help("data")
        return
    console.log_to_console()
    jobs = overrides.jobs(
        args.settings, multirun=args.multirun, entry="data", config_dir=args.config_dir
    )
    configs = compose.compose_all("data", jobs, config_dir=args.config_dir)
    if args.cfg:
        print_config(configs[0])
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        # the terminal's encoding may not cover every character
        sys.stdout.reconfigure(errors="replace")
    for cfg in configs:
        show(cfg)


def show(cfg: DataConfig) -> None:
    """Print the tables and sample documents, and draw the picture; prepares the data if needed."""
    from tinygpt.corpus import inspection
    from tinygpt.corpus import inspection_view as view
    from tinygpt.corpus.overlap import sample
    from tinygpt.corpus.prepared import prepare
    from tinygpt.records import plots

    prepared = prepare(cfg, console.say)
    tokenizer, name = prepared.tokenizer, cfg.tokenizer.name
    documents = {split: inspection.Documents(prepared, split) for split in SPLITS}
    terminal = view.console()

    def part(title: str) -> None:
        terminal.print(f"\n{title}", style="bold")

    part(f"{cfg.dataset.name} as {name} tokens, vocabulary {tokenizer.vocab_size:,}")
    terminal.print(view.split_table(prepared.splits))

    tokens, characters, code_points = {}, {}, {}
    for split, of_split in documents.items():
        tokens[split] = of_split.lengths()
        characters[split], code_points[split] = inspection.characters_of(of_split)
    rows = {f"{split}, characters": characters[split] for split in SPLITS}
    rows |= {f"{split}, tokens": tokens[split] for split in SPLITS}
    terminal.print()
    terminal.print(view.length_table(rows))
    n_all = prepared.splits["train"].documents
    for unit, values in (("characters", characters["train"]), ("tokens", tokens["train"])):
        if len(values) < n_all:
            terminal.print(
                f"({unit}: of {len(values):,} of {n_all:,} train documents, drawn evenly)"
            )

    part("Vocabulary")
    counts = inspection.count_ids(prepared)
    terminal.print(view.vocabulary_line(counts))
    if longest := view.longest(tokenizer, counts):
        terminal.print("the longest tokens, and how often train has them:")
        terminal.print(longest)
    points = code_points["train"]
    terminal.print(f"{np.count_nonzero(points):,} different characters; the rarest, and how often:")
    terminal.print(view.rarest(points))

    part("Copies")
    for line in prepared.overlap.lines():
        terminal.print(line)

    for index in sample(n_all, 3, seed=1):
        part(f"Train document {index + 1:,}, {documents['train'].n_tokens(index):,} tokens")
        terminal.print(view.document(documents["train"], index, colour=view.in_colour(terminal)))

    train = documents["train"].some(inspection.TRAIN_BYTES)
    test = documents["validation"].some(inspection.TEST_BYTES)
    chosen = inspection.bytes_per_token(tokenizer, test)
    sizes = inspection.compare_sizes(sorted({*cfg.candidates}), train=train, test=test)
    if sizes:
        part("Bytes per token of validation, by the vocabulary size of tokenizer=bpe")
        terminal.print(view.candidate_table(sizes))
        n_bytes = sum(map(utf8_length, train)) / 1e6
        terminal.print(
            f"(learned from {n_bytes:,.1f} MB of train; {name} with its {tokenizer.vocab_size:,} "
            f"ids has {chosen:.3f})"
        )

    path = Path(cfg.out).expanduser() if cfg.out else prepared.folder.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.corpus(
            path,
            title=f"{cfg.dataset.name}, train documents: {n_all:,}",
            lengths={"characters": characters, "tokens": tokens},
            sizes={size: result for size, result in sizes.items() if isinstance(result, float)},
            chosen=(name, tokenizer.vocab_size, chosen),
        )
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); type out=FILE.png") from None
    terminal.print(f"\nthe picture is {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
