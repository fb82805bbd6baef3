"""Prepare: make a dataset's tokens ready before any run needs them."""

import sys
from collections.abc import Sequence

import yaml

from tinygpt import cli, compose, config


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    cli.guarded(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: Sequence[str]) -> None:
    args = cli.parse_arguments("prepare", arguments)
    if args.help:
        from tinygpt import help

        print(help.text("prepare"))
        return
    cli.log_to_console()
    jobs = compose.jobs(args.settings, multirun=args.multirun)
    configs = compose.compose_all("prepare", jobs, config_dir=args.config_dir)
    if args.cfg:
        print(yaml.safe_dump(config.to_dict(configs[0]), sort_keys=False, allow_unicode=True))
        return
    from tinygpt.prepared import prepare

    for cfg in configs:
        prepared = prepare(cfg, cli.say)
        cli.say(f"ready: {prepared.folder} (vocabulary {prepared.tokenizer.vocab_size:,})")
        for split, info in prepared.splits.items():
            floor = f", entropy floor {info.floor_bpb:.4f} bits per byte" if info.floor_bpb else ""
            cli.say(
                f"  {split:<10} {info.documents:>11,} documents {info.tokens:>13,} tokens "
                f"{info.utf8_bytes:>13,} bytes, {info.utf8_bytes / info.tokens:.2f} a token{floor}"
            )


if __name__ == "__main__":
    main()
