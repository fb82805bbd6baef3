"""Find the text of a resumed run again after its files, or the working folder, have changed."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tinygpt.config import RunConfig
from tinygpt.errors import UserError

# files that are known by their contents, so that a resumed run may read them from another place
MOVABLE = ("dataset.path", "tokenizer.path")
_WILDCARD = re.compile(r"[*?\[]")


def look_up(content: dict[str, Any], working_dir: str | None) -> None:
    """Make relative paths of a saved config absolute if they exist where the run began.

    A path that is not there keeps its value and is looked up in the current folder.
    """
    if working_dir in (None, str(Path.cwd())):  # None: of an earlier version
        return
    places: list[Any] = [content, *(content.get(key.partition(".")[0]) for key in MOVABLE)]
    for place, field in zip(places, ["cache_dir", "path", "path"], strict=True):
        typed = place.get(field) if isinstance(place, dict) else None
        if not isinstance(typed, str) or typed.startswith(("/", "~")):
            continue
        known = takewhile(lambda part: not _WILDCARD.search(part), Path(typed).parts)
        if Path(str(working_dir), *known).exists():
            place[field] = str(Path(str(working_dir), typed))


def use_own_tokenizer(content: dict[str, Any], run: Path) -> None:
    """Make `tokenizer.path` name the run's own copy if what it named is gone."""
    tokenizer = content["tokenizer"]
    path = tokenizer.get("path")
    if not isinstance(path, str) or Path(path).expanduser().exists():
        return
    own = run.absolute() / "tokenizer"
    if tokenizer["name"] == "hf":  # its path is a file
        own /= "tokenizer.json"
    if own.exists() and any(run.glob("tokenizer/*")):
        tokenizer["path"] = str(own)


def absolute(typed: object) -> object:
    """A path typed for a resumed run, as it is saved: it holds from every folder."""
    is_relative = isinstance(typed, str) and not typed.startswith(("/", "~"))
    return str(Path(str(typed)).absolute()) if is_relative else typed


def check_same_text(
    cfg: RunConfig, record: Mapping[str, Any], *, typed: Sequence[str], run: Path
) -> None:
    """Raise UserError unless the config's text and tokenizer are those that the run began with."""
    from tinygpt.corpus.prepared import folder_of

    began_with = Path(str((record.get("data") or {}).get("prepared"))).name
    if folder_of(cfg, cfg.dataset.open()).name != began_with:
        raise UserError(
            f"{' '.join(typed)} holds other text than resume={run} began with (names of files "
            "count too); type the path of the same files, or leave it out and restore them"
        )
