"""Prepare: tokenize a dataset before any run needs it."""

from collections.abc import Sequence

from tinygpt import console
from tinygpt.cli.arguments import parse_arguments, print_config, print_help
from tinygpt.config import compose, overrides


@console.command
def main(arguments: Sequence[str]) -> None:
    """The entry point."""
    args = parse_arguments("prepare", arguments)
    if args.help:
        print_help("prepare")
        return
    console.log_to_console()
    jobs = overrides.jobs(
        args.settings, multirun=args.multirun, entry="prepare", config_dir=args.config_dir
    )
    configs = compose.compose_all("prepare", jobs, config_dir=args.config_dir)
    if args.cfg:
        print_config(configs[0])
        return
    from tinygpt.corpus.prepared import prepare

    for cfg in configs:
        prepared = prepare(cfg, console.say, repair=True)
        console.say(f"ready: {prepared.folder} (vocabulary {prepared.tokenizer.vocab_size:,})")
        for split, info in prepared.splits.items():
            floor = f", entropy floor {info.floor_bpb:.4f} bits per byte" if info.floor_bpb else ""
            console.say(
                f"  {split:<10} {info.documents:>11,} documents {info.tokens:>13,} tokens "
                f"{info.utf8_bytes:>13,} bytes, {info.utf8_bytes / info.tokens:.2f} a token{floor}"
            )
        for split, info in prepared.splits.items():
            for reason, n in info.dropped.items():
                if n:
                    console.say(
                        f"  {n:,} {split} documents were left out: {reason.replace('_', ' ')}"
                    )
        for line in prepared.overlap.lines():
            console.say(f"  {line}")


if __name__ == "__main__":
    main()
