"""What --help prints: the choices of each group, the fields, and commands to copy."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import getsource
from textwrap import dedent, wrap

from tinygpt import registry
from tinygpt.config import DeviceConfig, RunConfig, TrainerConfig, choices, compose, overrides
from tinygpt.config.resolution import type_words

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
    """Lines with the fields of a config class: the default, and what the field means."""
    comments = _comments(cls)
    hints = {field.name: field.type for field in fields(cls)}
    lines: list[str] = []
    for name, default in _defaults(cls):
        typed = f"{indent}{prefix}{name}={default}"
        parts = [comments.get(name, "")]
        if default in ("null", "..."):  # a default that does not show what the field takes
            words = type_words(hints[name]).removesuffix(" or null")
            # a field with several types has examples in its comment
            parts.insert(0, f"({words})" if " or " not in words else "")
        lines += _beside(typed, " ".join(filter(None, parts)))
    return lines


def _beside(typed: str, meaning: str) -> list[str]:
    """A field, and its meaning in a column to the right; below it if the field is long."""
    column = 42
    text = wrap(meaning, width=100 - column, break_on_hyphens=False)
    if not text:
        return [typed]
    first = [f"{typed:<{column - 1}} {text[0]}"] if len(typed) < column else [typed]
    rest = text[1:] if len(typed) < column else text
    return first + [" " * column + line for line in rest]


def _comments(cls: type) -> dict[str, str]:
    """The comments of a dataclass's fields: at the end of a field's lines, else above them."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            lines = dedent(getsource(base)).splitlines()
        except (OSError, TypeError):  # a class made without a file, as in an interpreter
            continue
        above: list[str] = []
        name = ""
        for line in lines:
            before, mark, comment = line.partition("# ")
            start = re.match(r"    (\w+): ", line)
            if mark and not before.strip():
                above.append(comment)
                continue
            if start:
                name = start[1]
                if above:
                    found[name] = " ".join(above)
            elif line.startswith("    def "):
                break
            if mark and name:
                found[name] = comment
            above = []
    return found


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
