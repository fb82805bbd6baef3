"""Write an export completely, check it, and only then give it its name."""

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tinygpt.errors import UserError
from tinygpt.files import flush, partial_name, rename_durably
from tinygpt.interchange.export.source import Source

MARK = "tinygpt_export.json"  # says that a folder is an export, which another may replace


@dataclass(frozen=True)
class Export:
    """An export on disk, and what its check found."""

    path: Path
    checks: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.path), *(f"  {line}" for line in self.checks)])


def check_target(out: Path) -> None:
    """Raise UserError unless the folder is free or an earlier export."""
    if out.is_symlink() or (out.exists() and not (out / MARK).is_file()):
        kind = "a folder that is no export" if out.is_dir() else "no folder"
        raise UserError(f"out={out} exists and is {kind}; use another out=FOLDER, or remove it")


def export(source: Source, *, to: str, out: Path) -> Export:
    """Write the folder `out`, which replaces an earlier export; nothing is left of a failed one.

    Raises UserError for a model that the format cannot hold, and if the other tool computes
    something else than we do.
    """
    check_target(out)
    fmt = import_module(f"tinygpt.interchange.export.{to}")
    partial, old = partial_name(out), out.with_name(f"{out.name}.old")
    if old.exists() and not out.exists():  # a crash came between the two renames
        rename_durably(old, out)
    for stale in (partial, old):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fmt.write(source, partial)
        checks = tuple(fmt.check(source, partial))
        mark = {"format": to, "run": source.run.name, "checkpoint": source.checkpoint}
        content = {**mark, "dtype": source.dtype, "checks": checks}
        (partial / MARK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for path in (*partial.rglob("*"), partial):
            flush(path)
        if out.exists():
            rename_durably(out, old)
        rename_durably(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return Export(out, checks)
