"""The run folders that the server may read.  Whatever they hold, nothing outside is followed.

An id is the path of a run inside output_dir, such as `2026-01-31_sweep/3`.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tinygpt.records.read import RunRecord, read_run
from tinygpt.serving.errors import ApiError

LARGEST_RECORD = 16 << 20  # bytes of run.json and the like; real ones have some 20 kB
_RECORDS = ("run.json", "summary.json", "config.yaml")
_LEVELS = 2  # a run is in output_dir, or in a sweep in it


class Outputs:
    """The folder of `output_dir=`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path.resolve()

    def runs(self) -> Iterator[tuple[str, Path]]:
        """The id and the folder of every run."""
        for name, path in self._folders(self.path):
            if (path / "run.json").exists():
                yield name, path
                continue
            for number, inside in self._folders(path):
                if number[0].isdigit() and (inside / "run.json").exists():
                    yield f"{name}/{number}", inside

    def _folders(self, path: Path) -> Iterator[tuple[str, Path]]:
        """The folders in a folder: name and path."""
        try:
            with os.scandir(path) as entries:
                found = [e for e in entries if not e.name.startswith(".") and e.is_dir()]
        except OSError:
            return
        for entry in found:
            inside = path / entry.name
            if not entry.is_symlink() or self.holds(inside):
                yield entry.name, inside

    def holds(self, path: Path) -> bool:
        """Whether the path, with its symbolic links followed, is inside."""
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # a link to itself
            return False

    def run(self, run_id: str) -> Path:
        """The folder of a run; raises ApiError for an id that names none."""
        path = self.folder(run_id)
        if path is None or not (path / "run.json").exists():
            raise ApiError(404, f"there is no run {run_id!r} in {self.path}", param="id")
        return path

    def readable(self, run_id: str) -> Path:
        """The folder of a run that other parts may read; raises ApiError."""
        path = self.run(run_id)
        if why := self.not_to_be_read(path):
            raise ApiError(403, f"run {run_id}: {why}", param="id")
        return path

    def not_to_be_read(self, run: Path) -> str | None:
        """Why other parts must not read the run's files: one leads out or is no file; or None."""
        for folder, folders, files in os.walk(run, followlinks=False):
            for name in (*folders, *files):
                path = Path(folder, name)
                try:
                    mode = path.stat().st_mode
                except OSError:  # vanished, or a link to nothing
                    continue
                if not self.holds(path):
                    return f"{path.relative_to(run)} leads out of {self.path}"
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    return f"{path.relative_to(run)} is neither file nor folder"
        return None

    def sweep(self, sweep_id: str) -> Path | None:
        """The folder of a sweep, or None."""
        path = self.folder(sweep_id)
        return path if path is not None and self.file(path, "sweep.yaml") else None

    def folder(self, text: str) -> Path | None:
        """The folder of an id, or None; a link that leads out is none."""
        parts = text.split("/")
        if len(text) > 1000 or "\0" in text or "\\" in text or len(parts) > _LEVELS:
            return None
        if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
            return None
        path = self.path.joinpath(*parts)
        return path if path.is_dir() and self.holds(path) else None

    def id_of(self, path: Path) -> str | None:
        """The id of a run folder, or None if it is not inside."""
        try:
            return path.resolve().relative_to(self.root).as_posix()
        except ValueError:
            return None

    def file(self, run: Path, name: str, *, most: int = LARGEST_RECORD) -> Path | None:
        """A regular file inside a run folder with at most so many bytes; None if it is not one."""
        path = run / name
        try:
            found = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_size > most or not self.holds(path):
            return None
        return path

    def record(self, run: Path) -> RunRecord:
        """The contents of a run folder; `damage` says so if its files are not to be read."""
        for name in (*_RECORDS, "metrics.jsonl", ".lock", "evaluation", "samples", "checkpoints"):
            path = run / name
            if path.is_symlink() and not self.holds(path):
                return _refused(run, f"{name} leads out of {self.path}")
        for name in _RECORDS:
            path = run / name
            if path.exists() and self.file(run, name) is None:
                return _refused(run, f"{name} is no file of at most {LARGEST_RECORD >> 20} MiB")
        return read_run(run)


def _refused(run: Path, why: str) -> RunRecord:
    return RunRecord(run, {}, {}, {}, damage=why)
