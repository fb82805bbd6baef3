"""Prepare: make a dataset's tokens ready before any run needs them."""

import sys
from collections.abc import Sequence

from tinygpt import cli, compose, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    cli.guarded(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> None:
    args = cli.parse_arguments("prepare", arguments)
    if args.help:
        cli.print_help("prepare")
        return
    cli.log_to_console()
    jobs = overrides.jobs(args.settings, multirun=args.multirun, entry="prepare")
    configs = compose.compose_all("prepare", jobs, config_dir=args.config_dir)
    if args.cfg:
        cli.print_config(configs[0])
        return
    from tinygpt.prepared import prepare

    for cfg in configs:
        prepared = prepare(cfg, cli.say, repair=True)
        cli.say(f"ready: {prepared.folder} (vocabulary {prepared.tokenizer.vocab_size:,})")
        for split, info in prepared.splits.items():
            floor = f", entropy floor {info.floor_bpb:.4f} bits per byte" if info.floor_bpb else ""
            cli.say(
                f"  {split:<10} {info.documents:>11,} documents {info.tokens:>13,} tokens "
                f"{info.utf8_bytes:>13,} bytes, {info.utf8_bytes / info.tokens:.2f} a token{floor}"
            )
        for split, info in prepared.splits.items():
            for reason, n in info.dropped.items():
                if n:
                    cli.say(f"  {n:,} {split} documents were left out: {reason.replace('_', ' ')}")
        for line in prepared.overlap.lines():
            cli.say(f"  {line}")


if __name__ == "__main__":
    main()
