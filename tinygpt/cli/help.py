"""The text of --help: commands to copy, the choices of each group, and the fields."""

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

Trains a GPT on text and saves everything in a new run folder; prepares the data if needed.

  python -m tinygpt.train dataset=storyworld                # no network needed; minutes on a CPU
  python -m tinygpt.train model=small tokenizer=bpe device=cuda trainer.max_tokens=300M
  python -m tinygpt.train dataset=text dataset.path=my.txt
  python -m tinygpt.train config_file=mine.json optimizer.lr=1e-3
  python -m tinygpt.train resume=outputs/RUN                # continues exactly where it stopped
  python -m tinygpt.train init_from=outputs/RUN dataset=text dataset.path=my.txt    # fine-tunes
  python -m tinygpt.train -m model=tiny,small seed=0,1,2    # every combination, one process each
  python -m tinygpt.train -m sweep=asha optimizer.lr=1e-3,3e-3,1e-2,3e-2    # bad ones stop early
  python -m tinygpt.train -m sweep=latest                   # continues a sweep
"""
_PREPARE = """\
python -m tinygpt.prepare [GROUP=CHOICE ...] [FIELD=VALUE ...]

Tokenizes a dataset once, for all runs that use it.

  python -m tinygpt.prepare dataset=tiny_stories tokenizer=bpe dataset.fraction=0.1
  python -m tinygpt.prepare dataset=text dataset.path=my.txt
"""
_DATA = """\
python -m tinygpt.data [GROUP=CHOICE ...] [FIELD=VALUE ...]

Shows statistics of a dataset and its tokens as tables and a picture; prepares it if needed.

  python -m tinygpt.data dataset=tiny_stories tokenizer=bpe dataset.fraction=0.1
  python -m tinygpt.data dataset=text dataset.path=my.txt candidates=[512,1024,2048]
"""
_INTRODUCTIONS = {"train": _TRAIN, "prepare": _PREPARE, "data": _DATA}
_FLAGS = """\
Flags
  -m, --multirun       one run for each combination of comma-separated values
  -c, --cfg job        print the composed config and stop
  -cd, --config-dir D  look for choices in D too: D/model/mine.yaml makes model=mine
  config_file=FILE     settings from JSON or YAML; typed settings override them
"""


def text(entry: str) -> str:
    """The help text of an entry point in `compose.CONFIG_CLASSES`."""
    registry.import_all()
    groups, defaults = choices.groups(entry), choices.default_choices(entry)
    lines = [_INTRODUCTIONS[entry], "Groups (a star marks the default)"]
    for group, options in groups.items():
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        lines += _group(group, " ".join(starred) or "(none yet)")
    lines += ["", "Fields, and those of each choice"]
    lines += field_lines("  ", "", compose.CONFIG_CLASSES[entry])
    if entry == "train":
        lines += [
            *field_lines("  ", "trainer.", TrainerConfig),
            *field_lines("  ", "device.", DeviceConfig),
        ]
    for kind in (kind for kind in registry.KINDS if kind in groups):
        for name, cls in registry.classes(kind).items():
            prefix = f"{kind}.{name}." if kind in registry.MANY else f"{kind}."
            # gpt itself is not a choice: every size is a gpt, and its YAML sets other values
            title = (
                f"{kind}={name}" if name in groups[kind] else f"{kind}: each is a {name}, such as"
            )
            lines += [f"  {title}", *field_lines("    ", prefix, cls)]
    if entry == "train":
        lines += ["", *_of_sweeps()]
    return "\n".join([*lines, "", _FLAGS])


def _of_sweeps() -> Iterator[str]:
    """The groups and fields of a sweep, which -m takes in addition to those of a run."""
    groups, defaults = choices.groups("sweep"), choices.default_choices("sweep")
    yield "Sweeps: with -m, in addition to the settings of a run"
    for group, options in groups.items():
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        more = " latest new FOLDER" if group == "sweep" else ""
        yield from _group(group, f"{' '.join(starred)}{more}")
    yield from field_lines("  ", "", compose.CONFIG_CLASSES["sweep"])
    for kind in registry.SWEEP_KINDS:
        for name, cls in registry.classes(kind).items():
            if fields_of := field_lines("    ", f"{kind}.", cls):
                yield f"  {kind}={name}"
                yield from fields_of


def _group(group: str, options: str) -> list[str]:
    """Help lines for a group and its choices."""
    head = f"  {group:<11} "
    return wrap(
        options,
        width=100,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )


def field_lines(indent: str, prefix: str, cls: type) -> list[str]:
    """Help lines for the fields of a config class: name, default, and meaning."""
    comments = _comments(cls)
    hints = {field.name: field.type for field in fields(cls)}
    lines: list[str] = []
    for name, default in _defaults(cls):
        typed = f"{indent}{prefix}{name}={default}"
        parts = [comments.get(name, "")]
        if default in ("null", "..."):  # the default does not show the type
            words = type_words(hints[name]).removesuffix(" or null")
            # a field with several types has examples in its comment
            parts.insert(0, f"({words})" if " or " not in words else "")
        lines += _beside(typed, " ".join(filter(None, parts)))
    return lines


def _beside(typed: str, meaning: str) -> list[str]:
    """A field with its meaning in the right column, or on the next line if the field is long."""
    column = 42
    text = wrap(meaning, width=100 - column, break_on_hyphens=False)
    if not text:
        return [typed]
    first = [f"{typed:<{column - 1}} {text[0]}"] if len(typed) < column else [typed]
    rest = text[1:] if len(typed) < column else text
    return first + [" " * column + line for line in rest]


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field of a dataclass: on the field's own lines, else above them."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            lines = dedent(getsource(base)).splitlines()
        except (OSError, TypeError):  # a class without a source file, as in an interpreter
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
    """The fields that are not groups, with their defaults as a user would type them."""
    groups = {*registry.KINDS, *registry.SWEEP_KINDS, "trainer", "device"}
    is_entry = cls in compose.CONFIG_CLASSES.values()  # a component's field may be called model
    for field in fields(cls):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        is_text = isinstance(value, str) and value != "???"
        if field.name in groups and is_entry and not is_text:
            continue
        if field.name == "name" and cls is not RunConfig:  # a component's is set by its YAML
            continue
        if value == "???":
            yield field.name, "..."
        else:
            yield field.name, value if isinstance(value, str) else overrides.quoted(value)
