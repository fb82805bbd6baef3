"""The text of --help: commands to copy, the choices of each group, and the fields."""

import ast
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import getsource
from itertools import takewhile
from textwrap import dedent, wrap
from typing import Any

from tinygpt import registry
from tinygpt.config import (
    DeviceConfig,
    RunConfig,
    SweepConfig,
    TrainerConfig,
    choices,
    compose,
    overrides,
)
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
  python -m tinygpt.train -m sweep=asha optimizer.lr=5e-3,1e-2,2e-2,4e-2    # bad ones stop early
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
    lines = [_INTRODUCTIONS[entry], "Groups (a star marks the default)", *_groups(entry)]
    lines += ["", "Fields, and those of each choice"]
    lines += field_lines("  ", "", compose.CONFIG_CLASSES[entry])
    if entry == "train":
        lines += field_lines("  ", "trainer.", TrainerConfig)
        lines += field_lines("  ", "device.", DeviceConfig)
    lines += _choices(entry)
    if entry == "train":
        lines += ["", "Sweeps: with -m, in addition to the settings of a run"]
        lines += [*_groups("sweep"), *field_lines("  ", "", SweepConfig), *_choices("sweep")]
    return "\n".join([*lines, "", _FLAGS])


def _groups(entry: str) -> Iterator[str]:
    """Each group with its choices."""
    defaults = choices.default_choices(entry)
    for group, options in choices.groups(entry).items():
        head = f"  {group:<11} "
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        if group == "sweep":
            starred += ["latest", "new", "FOLDER"]
        yield from wrap(
            " ".join(starred) or "(none yet)",
            width=100,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )


def _choices(entry: str) -> Iterator[str]:
    """The fields of each component that a command takes."""
    for kind, options in choices.groups(entry).items():
        for name, cls in registry.classes(kind).items() if kind in choices.ALL_KINDS else ():
            prefix = f"{kind}.{name}." if kind in registry.MANY else f"{kind}."
            lines = field_lines("    ", prefix, cls)
            # gpt itself is not a choice: every size is a gpt, and its YAML sets other values
            title = f"{kind}={name}" if name in options else f"{kind}: each is a {name}, such as"
            if lines:
                yield f"  {title}"
                yield from lines


def field_lines(indent: str, prefix: str, cls: type) -> list[str]:
    """Help lines for the fields of a config class: name, default, and meaning."""
    comments = _comments(cls)
    is_entry = cls in compose.CONFIG_CLASSES.values()  # a component's field may be called model
    lines: list[str] = []
    for field in fields(cls):
        if is_entry and field.name in choices.GROUPS:
            continue
        if field.name == "name" and cls is not RunConfig:  # a component's is set by its YAML
            continue
        default = _default(field)
        parts = [comments.get(field.name, "")]
        if default in ("null", "..."):  # the default does not show the type
            words = type_words(field.type).removesuffix(" or null")
            # a field with several types has examples in its comment
            parts.insert(0, f"({words})" if " or " not in words else "")
        lines += _beside(f"{indent}{prefix}{field.name}={default}", " ".join(filter(None, parts)))
    return lines


def _beside(typed: str, meaning: str) -> list[str]:
    """A field with its meaning in the right column, or on the next line if the field is long."""
    column = 42
    indent = " " * column
    lines = wrap(
        meaning, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if lines and len(typed) < column:
        return [typed + lines[0][len(typed) :], *lines[1:]]
    return [typed, *lines]


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field of a dataclass: on the field's own lines, else above them."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(cls.__mro__)):
        try:
            source = dedent(getsource(base))
        except (OSError, TypeError):  # a class without a source file, as in an interpreter
            continue
        lines = source.splitlines()
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                before = reversed(lines[: node.lineno - 1])
                above = [*takewhile(lambda line: line.startswith("    # "), before)]
                own = lines[node.lineno - 1 : node.end_lineno]
                comments = [line.partition("  # ")[2] for line in own if "  # " in line]
                comments = comments or [line.strip("# ") for line in reversed(above)]
                if comments:
                    found[node.target.id] = " ".join(comments)
    return found


def _default(field: Field[Any]) -> str:
    """The default of a field as a user would type it."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    text = value if isinstance(value, str) else overrides.quoted(value)
    return "..." if text == "???" else text
