"""Entries: a YAML file with the settings of a run, and who had which idea when."""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from tinygpt import config
from tinygpt.config import overrides
from tinygpt.config.overrides import OF_TRAINING
from tinygpt.errors import UserError, did_you_mean, shortened, visible
from tinygpt.speedruns.tracks import FIXED, Track

REFERENCE = "reference"  # the entry that others are compared with
LONGEST = {"name": 40, "author": 80, "idea": 200}  # characters
_FIELDS = ("name", "author", "idea", "date", "settings", "components")
_AT_START = ("sitecustomize", "usercustomize")  # Python imports them by itself


@dataclass(frozen=True)
class Entry:
    """A checked entry of a track."""

    path: Path
    name: str
    author: str
    idea: str
    date: str  # ISO
    settings: list[str]  # as typed for `python -m tinygpt.train`
    components: list[str] = field(default_factory=list)  # .py files beside the entry

    @property
    def modules(self) -> list[str]:
        """The modules that the component files are imported as."""
        return [Path(name).stem for name in self.components]

    @property
    def is_reference(self) -> bool:
        """Whether other entries are compared with this one."""
        return self.name == REFERENCE

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of the entry's file and of its component files."""
        paths = [self.path, *(self.path.parent / name for name in self.components)]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def find(typed: str, track: Track, board: Path) -> Path:
    """The file of `entry=`: a path, or the name of an entry of the track; raises UserError."""
    folder = board / "entries" / track.name
    for path in (Path(typed).expanduser(), folder / f"{typed}.yaml"):
        if path.is_file():
            return path
    known = [path.stem for path in sorted(folder.glob("*.yaml"))]
    hint = did_you_mean(typed, known, "entry=")
    listed = ", ".join(known) or "none yet"
    raise UserError(
        f"entry={typed} is neither a file nor an entry of track={track.name}{hint}\n"
        f"  entries in {folder}: {listed}"
    )


def read_all(typed: Sequence[str], track: Track, board: Path) -> list[Entry]:
    """The entries that are named or whose files are named, each once; raises UserError."""
    paths = dict.fromkeys(find(text, track, board).resolve() for text in typed)
    found: dict[str, Entry] = {}
    for entry in (read(path, track) for path in paths):
        if entry.name in found:
            raise UserError(
                f"{found[entry.name].path} and {entry.path} have one name; rename one of the files"
            )
        found[entry.name] = entry
    return list(found.values())


def read(path: Path, track: Track) -> Entry:
    """Read and check an entry; raises UserError for the first rule that it breaks."""
    content = config.read(path)
    for key in content:
        if key not in _FIELDS:
            raise UserError(
                f"{path}: {visible(key)} is not a field of an entry{did_you_mean(key, _FIELDS)}\n"
                f"  fields: {', '.join(_FIELDS)}; settings of the run go under settings:"
            )
    texts = {name: _line(path, content, name) for name in LONGEST}
    settings = _texts(path, content, "settings")
    components = _texts(path, content, "components")
    for text in settings:
        _check_setting(path, text)
    for name in components:
        _check_component(path, name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", texts["name"]) or texts["name"] != path.stem:
        raise UserError(
            f"{path}: name: {visible(texts['name'])} must be the file's name without .yaml, in "
            f"lower-case letters, digits, _ and -; write name: {_as_name(path.stem)}"
        )
    return Entry(path, **texts, date=_date(path, content), settings=settings, components=components)


def _as_name(stem: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", stem.lower()).strip("_-") or "my_entry"


def _line(path: Path, content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    longest = LONGEST[name]
    if isinstance(value, str) and 1 <= len(value.strip()) <= longest:
        (line, *more) = value.strip().splitlines()  # at each character that ends a line
        if not more:
            return line
    shown = "is missing" if value is None else f"is {visible(shortened(value))!r}"
    raise UserError(f"{path}: {name}: {shown}; write one line of 1 to {longest} characters")


def _date(path: Path, content: dict[str, Any]) -> str:
    value = content.get("date")
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        shown = "is missing" if value is None else f"is {visible(shortened(value))!r}"
        today = date.today().isoformat()
        raise UserError(f"{path}: date: {shown}; write the day, such as date: {today}") from None


def _texts(path: Path, content: dict[str, Any], name: str) -> list[str]:
    value = content.get(name) or []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(value)
    example = "  - model=nano" if name == "settings" else "  - my_optimizer.py"
    raise UserError(f"{path}: {name}: must be a list of texts, such as\n{name}:\n{example}")


def _check_setting(path: Path, text: str) -> None:
    """Raise UserError for a field that the track decides, and for a setting of several runs."""
    try:
        key = overrides.parse([text.lstrip("+")])[0].key_or_group
        parts = key.split(".")
        owners = [".".join(parts[: n + 1]) for n in range(len(parts))]
        fixed = next((name for name in owners if name in FIXED), None)
        if fixed and key not in OF_TRAINING:
            raise UserError(
                f"{visible(text)} is not an entry's to choose: {FIXED[fixed]}; leave it out"
            )
        overrides.jobs([text], multirun=False)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_component(path: Path, name: str) -> None:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*\.py", name):
        raise UserError(
            f"{path}: components: {visible(name)} must be the name of a .py file beside the "
            "entry, in lower-case letters, digits and _, such as my_optimizer.py"
        )
    module = name.removesuffix(".py")
    if module in {*sys.stdlib_module_names, *packages_distributions(), *_AT_START}:
        raise UserError(
            f"{path}: components: {name} would take the place of the module {module}; rename the "
            f"file, such as to my_{name}"
        )
    if not (path.parent / name).is_file():
        raise UserError(f"{path}: components: {path.parent / name} is not a file")
