"""What --help prints: the choices of each group, the fields, and commands to copy."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from textwrap import wrap

from tinygpt import registry
from tinygpt.config import DeviceConfig, RunConfig, TrainerConfig, choices, compose, overrides

_TRAIN = """\
python -m tinygpt.train [-m] [GROUP=CHOICE ...] [FIELD=VALUE ...]

Trains a GPT on text, in a run folder of its own; prepares the data if need be.

  python -m tinygpt.train dataset=storyworld                # no network needed; minutes on a CPU
  python -m tinygpt.train model=small tokenizer=bpe device=cuda trainer.max_tokens=300M
  python -m tinygpt.train dataset=text dataset.path=my.txt
  python -m tinygpt.train config_file=mine.json optimizer.lr=1e-3
  python -m tinygpt.train resume=outputs/RUN                # goes on exactly where it stopped
  python -m tinygpt.train -m model=tiny,small seed=0,1,2    # every combination, in a process each
  python -m tinygpt.train -m sweep=asha optimizer.lr=1e-3,3e-3,1e-2,3e-2    # bad ones stop early
  python -m tinygpt.train -m sweep=latest                   # goes on with a sweep
"""
_PREPARE = """\
python -m tinygpt.prepare [GROUP=CHOICE ...] [FIELD=VALUE ...]

Makes a dataset's tokens ready, once for all runs that use them.

  python -m tinygpt.prepare dataset=tiny_stories tokenizer=bpe dataset.fraction=0.1
  python -m tinygpt.prepare dataset=text dataset.path=my.txt
"""
_DATA = """\
python -m tinygpt.data [GROUP=CHOICE ...] [FIELD=VALUE ...]

Shows what a dataset and its tokens are like, in tables and a picture; prepares it if need be.

  python -m tinygpt.data dataset=tiny_stories tokenizer=bpe dataset.fraction=0.1
  python -m tinygpt.data dataset=text dataset.path=my.txt candidates=[512,1024,2048]
"""
_INTRODUCTIONS = {"train": _TRAIN, "prepare": _PREPARE, "data": _DATA}
_FLAGS = """\
Flags
  -m, --multirun       one run for each combination of comma-separated values
  -c, --cfg job        print the composed config and stop
  -cd, --config-dir D  look for choices in D too: D/model/mine.yaml makes model=mine
  config_file=FILE     settings from JSON or YAML; what is typed wins over them
"""


def text(entry: str) -> str:
    """The whole help of an entry point in `compose.CONFIG_CLASSES`."""
    registry.import_all()
    groups, defaults = choices.groups(entry), choices.default_choices(entry)
    lines = [_INTRODUCTIONS[entry], "Groups (a star marks the default)"]
    for group, options in groups.items():
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        lines.append(f"  {group:<11} {' '.join(starred) or '(none yet)'}")
    lines += ["", "Fields, and those of each choice"]
    lines += _fields("  ", "", compose.CONFIG_CLASSES[entry])
    if entry == "train":
        lines += [
            *_fields("  ", "trainer.", TrainerConfig),
            *_fields("  ", "device.", DeviceConfig),
        ]
    for kind in (kind for kind in registry.KINDS if kind in groups):
        for name, cls in registry.classes(kind).items():
            prefix = f"{kind}.{name}." if kind in registry.MANY else f"{kind}."
            # gpt is no choice but what all sizes are; their YAMLs have other values
            title = (
                f"{kind}={name}" if name in groups[kind] else f"{kind}: each is a {name}, such as"
            )
            lines += [f"  {title}", *_fields("    ", prefix, cls)]
    if entry == "train":
        lines += ["", *_of_sweeps()]
    return "\n".join([*lines, "", _FLAGS])


def _of_sweeps() -> Iterator[str]:
    """What -m takes beside the settings of its runs."""
    groups, defaults = choices.groups("sweep"), choices.default_choices("sweep")
    yield "Sweeps: with -m, beside what its runs take"
    for group, options in groups.items():
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        more = " latest new FOLDER" if group == "sweep" else ""
        yield f"  {group:<11} {' '.join(starred)}{more}"
    yield from _fields("  ", "", compose.CONFIG_CLASSES["sweep"])
    for kind in registry.SWEEP_KINDS:
        for name, cls in registry.classes(kind).items():
            if fields_of := _fields("    ", f"{kind}.", cls):
                yield f"  {kind}={name}"
                yield from fields_of


def _fields(indent: str, prefix: str, cls: type) -> list[str]:
    """Lines with the fields of a config class and their defaults."""
    texts = (f"{prefix}{name}={default}" for name, default in _defaults(cls))
    # a no-break space keeps a default in one piece
    lines = wrap(
        "  ".join(text.replace(" ", "\xa0") for text in texts),
        width=100,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace("\xa0", " ") for line in lines]


def _defaults(cls: type) -> Iterator[tuple[str, str]]:
    """The fields that are not groups, with their defaults as typed."""
    hidden = {*registry.KINDS, *registry.SWEEP_KINDS, "trainer", "device"}
    if cls is not RunConfig:  # that of a component chooses its class, in a YAML
        hidden.add("name")
    for field in fields(cls):
        if field.name in hidden:
            continue
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        if value == "???":
            yield field.name, "..."
        else:
            yield field.name, value if isinstance(value, str) else overrides.quoted(value)
