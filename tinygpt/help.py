"""What --help prints: the choices of each group, the fields, and commands to copy."""

from dataclasses import MISSING, fields
from typing import Any

from tinygpt import compose, registry
from tinygpt.config import DeviceConfig, TrainerConfig

_TRAIN = """\
python -m tinygpt.train [-m] [GROUP=CHOICE ...] [FIELD=VALUE ...]

Trains a GPT on text, in a run folder of its own; prepares the data if need be.

  python -m tinygpt.train dataset=storyworld                # no network needed; minutes on a CPU
  python -m tinygpt.train model=small tokenizer=bpe device=cuda trainer.max_tokens=300M
  python -m tinygpt.train dataset=text dataset.path=my.txt
  python -m tinygpt.train config_file=mine.json optimizer.lr=1e-3
  python -m tinygpt.train resume=outputs/RUN                # goes on exactly where it stopped
  python -m tinygpt.train -m model=tiny,small seed=0,1,2    # every combination
"""
_PREPARE = """\
python -m tinygpt.prepare [GROUP=CHOICE ...] [FIELD=VALUE ...]

Makes a dataset's tokens ready, once for all runs that use them.

  python -m tinygpt.prepare dataset=tiny_stories tokenizer=bpe dataset.fraction=0.1
  python -m tinygpt.prepare dataset=text dataset.path=my.txt
"""
_FLAGS = """\
Flags
  -m, --multirun       one run for each combination of comma-separated values
  -c, --cfg job        print the composed config and stop
  -cd, --config-dir D  look for choices in D too: D/model/mine.yaml makes model=mine
  config_file=FILE     settings from JSON or YAML; what is typed wins over them
"""


def text(entry: str) -> str:
    """The whole help of `train` or `prepare`."""
    with compose.hydra_conf():
        groups = compose.groups(entry)
        defaults = compose.default_choices(entry)
    lines = [_TRAIN if entry == "train" else _PREPARE, "Groups (a star marks the default)"]
    for group, options in groups.items():
        starred = [f"{name}*" if name in defaults.get(group, ()) else name for name in options]
        lines.append(f"  {group:<11} {' '.join(starred) or '(none yet)'}")
    lines += ["", "Fields (each component has more: -c job prints those of your choice)"]
    if entry == "train":
        lines.append("  seed=0")
        for prefix, cls in (("trainer", TrainerConfig), ("device", DeviceConfig)):
            lines += [f"  {prefix}.{f.name}={_shown(f.default)}" for f in fields(cls)]
    for kind in registry.KINDS:
        if kind in groups and kind not in registry.MANY:
            lines.append(f"  {kind}: {_component_fields(kind)}")
    return "\n".join([*lines, "", _FLAGS])


def _component_fields(kind: str) -> str:
    names = {f.name for cls in registry.classes(kind).values() for f in fields(cls)}
    return " ".join(f"{kind}.{name}" for name in sorted(names - {"name"}))


def _shown(value: Any) -> str:
    return "" if value is MISSING else "null" if value is None else str(value)
