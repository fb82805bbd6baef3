"""The run folder: records the config, the code version, the machine, and the result of a run."""

import json
import logging
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

import tinygpt
from tinygpt import config, console
from tinygpt.config import RunConfig
from tinygpt.errors import UserError, masked
from tinygpt.files import is_disk_full, write_atomically
from tinygpt.records.processes import this_process
from tinygpt.records.read import check_files, file_checksums, read_record, read_run

RESERVE_BYTES = 1 << 15  # reserved so that run.json can still be written when the disk is full
_LIBRARIES = ("torch", "hydra-core", "omegaconf", "datasets", "sentencepiece", "wandb", "numpy")


def new_run_id() -> str:
    """A unique run name that sorts by time."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{secrets.token_hex(2)}"


class RunFolder:
    """A run's folder, locked by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tokenizer = path / "tokenizer"
        self.metrics = path / "metrics.jsonl"
        self.before: dict[str, Any] = {}  # run.json of a reopened run, before any change
        self.damage: str | None = None  # what was wrong with metrics.jsonl at that time
        self.has_begun = False
        self._cfg: RunConfig | None = None  # the config that `begin` writes to config.yaml
        self._writing = threading.Lock()  # the checkpoint thread writes run.json too
        self._reserve = path / ".reserve"
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{path} is in use by another process; wait or stop it") from None
        try:
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
            self._log = console.LogFile(path / "train.log")
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            self._lock.release()
            raise disk_error(path, error) from None
        logging.getLogger("tinygpt").addHandler(self._log)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        cfg: RunConfig,
        overrides: Sequence[str],
        run_id: str,
        group: str | None,
    ) -> "RunFolder":
        """Create the folder of a new run; raises UserError if the path already exists."""
        make_folder(path)
        try:
            freeze(path, cfg=cfg, overrides=overrides, run_id=run_id, group=group)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise disk_error(path, error) from None
        folder = cls(path)
        folder.write_run(**_beginning(path))
        return folder

    @classmethod
    def reopen(
        cls, path: Path, *, cfg: RunConfig, overrides: Sequence[str], pause_at: int | None
    ) -> "RunFolder":
        """Open the folder of a run to resume; `cfg` is its config with the new overrides."""
        folder = cls(path)
        folder.before = folder.run
        try:
            check_files(path, folder.before, "metrics.jsonl")
        except UserError as error:
            folder.damage = str(error)
        # one write, so a run with status running always has its new config and pause step
        changes: dict[str, Any] = {"config": config.to_dict(cfg), "pause_at": pause_at}
        if changes["config"] != folder.before.get("config"):
            changes["config_before"] = folder.before.get("config")  # still in config.yaml
        folder._cfg = cfg
        if folder.before["status"] == "queued":
            folder.write_run(**changes, **_beginning(path))
            return folder
        again = {"command": _command(), "overrides": list(overrides), "at": _now()}
        folder.write_run(
            **changes,
            status="running",
            process=this_process(),
            error=None,
            ended_at=None,
            resumed=[*folder.before["resumed"], again],
        )
        return folder

    def begin(self) -> None:
        """Call just before the first step: saves the config; later changes cannot be undone."""
        if self._cfg is not None:
            config.save(self._cfg, self.path / "config.yaml")
        self.write_run(files=None)
        self.has_begun = True

    @property
    def run(self) -> dict[str, Any]:
        """The content of run.json; raises UserError if it is damaged."""
        return read_record(self.path)

    def write_run(self, **changes: Any) -> None:
        """Change fields of run.json."""
        with self._writing:
            write_json(self.path / "run.json", self.run | changes)

    def note_first_checkpoint(self) -> None:
        """Record the first checkpoint; from now on the run must resume and cannot start over."""
        if self.run.get("first_checkpoint_at") is None:
            self.write_run(first_checkpoint_at=_now())

    def has_results(self) -> bool:
        """Whether starting the run over would delete results."""
        if (self.path / "summary.json").exists():
            return True
        if "first_checkpoint_at" not in self.run:  # a run of an earlier version
            return self.metrics.exists() and self.metrics.stat().st_size > 0
        # rows before the first checkpoint are reproduced exactly
        return self.run["first_checkpoint_at"] is not None

    def is_complete(self) -> bool:
        """Whether the run had already finished when it was opened, with its summary and picture."""
        return (
            self.before.get("status") == "finished"
            and self.damage is None
            and bool(read_run(self.path).summary)
            and (self.path / "loss.png").exists()
        )

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", summary)

    def close(self, status: str, error: str | None = None) -> None:
        """Record how the run ended and release the lock on its folder."""
        with self.closing(status, error):
            pass

    @contextmanager
    def closing(self, status: str, error: str | None = None) -> Iterator[None]:
        """Record how the run ended, with checksums of its results, then run the block.

        Messages from the block still go to train.log; after the block the folder is unlocked. Print
        nothing before this call, because a console can block. A finished run that was reopened
        without a new step keeps its old run.json. If the disk is full, the reserve is freed.
        """
        changes: dict[str, Any] = {
            "status": status,
            "error": error and masked(error),
            "ended_at": _now(),
        }
        if self.has_begun:
            changes["files"] = file_checksums(self.path)
        elif self.before.get("status") == "finished":
            changes = dict.fromkeys(("pause_at", "config_before")) | self.before
        else:
            changes["config"] = self.before.get("config", self.run.get("config"))
        try:
            try:
                self.write_run(**changes)
            except OSError:
                self._reserve.unlink(missing_ok=True)
                self.write_run(**changes)
        except OSError as failure:
            console.warn(f"{self.path / 'run.json'} cannot be written: {failure.strerror}")
        self._reserve.unlink(missing_ok=True)
        try:
            yield
        finally:
            logging.getLogger("tinygpt").removeHandler(self._log)
            self._log.close()
            self._lock.release()


def freeze(
    path: Path,
    *,
    cfg: RunConfig,
    overrides: Sequence[str],
    run_id: str,
    group: str | None,
    **more: Any,
) -> None:
    """Write a queued run's config and run.json to an empty folder; `resume=` starts the run."""
    config.save(cfg, path / "config.yaml")
    write_atomically(path / "overrides.yaml", yaml.safe_dump(list(overrides)))
    (path / "samples").mkdir()
    (path / "tokenizer").mkdir()
    content = {
        "id": run_id,
        "group": group,
        "status": "queued",
        "error": None,
        "created_at": _now(),
        "first_checkpoint_at": None,
        "resumed": list[str](),
        **more,
        "working_dir": str(Path.cwd()),  # relative paths in the config start here
        # a copy of config.yaml: JSON reads 50 times as fast, and an edit of either file is detected
        "config": config.to_dict(cfg),
    }
    write_json(path / "run.json", content)


def _beginning(path: Path) -> dict[str, Any]:
    """The fields of run.json that are set when the run starts."""
    return {
        "status": "running",
        "process": this_process(),
        "command": _command(),
        "started_at": _now(),
        "ended_at": None,
        "git": source_state(path),
        "versions": _versions(),
    }


def disk_error(folder: Path, error: OSError) -> UserError | OSError:
    """The error for a failed write; for a full disk, a UserError that says what to do."""
    if not is_disk_full(error):
        return error
    return UserError(f"the disk of {folder} is full; make room and type the command again")


def make_folder(path: Path) -> None:
    """Create a folder that must not exist yet; raises UserError."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if (path / "run.json").exists():
            hint = f"it holds a run; go on with it by resume={path}"
        else:
            hint = f"{error.strerror}; type output_dir=FOLDER"
        raise UserError(f"{path} cannot be made: {hint}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # a command-line byte that is not UTF-8 is written as a JSON escape
    write_atomically(path, text.encode(errors="backslashreplace"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _command() -> str:
    """The command as typed: `python -m tinygpt.NAME`, `tinygpt`, or the user's own script."""
    program = Path(sys.argv[0])
    if program.resolve().parent == Path(tinygpt.__file__).resolve().parent:
        door = program.stem
        start = ["python", "-m", "tinygpt" if door == "__main__" else f"tinygpt.{door}"]
    elif program.suffix == ".py":
        start = ["python", str(program)]
    else:
        start = ["tinygpt"]
    return shlex.join(start + sys.argv[1:])


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "tinygpt": tinygpt.__version__}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def source_state(folder: Path | None = None, *, paths: Sequence[str] = ()) -> dict[str, Any] | None:
    """The commit of the source tree; uncommitted changes are saved as git.diff in `folder`.

    An untracked file in tinygpt/ or conf/ counts as a change too; git.diff lists its name. With
    `paths` only changes of tracked files in these count. Returns None outside of a git checkout.
    """
    source = Path(tinygpt.__file__).resolve().parents[1]

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(source), *arguments]
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            command, capture_output=True, check=True, env=environment, timeout=10
        ).stdout

    try:
        top, _, commit = git("rev-parse", "--show-toplevel", "HEAD").strip().rpartition(b"\n")
        if Path(os.fsdecode(top)).resolve() != source:
            return None  # installed inside another repository
        changes = git("diff", "--no-ext-diff", "--no-color", "HEAD", "--", *paths)
        changes += git("ls-files", "--others", "--exclude-standard", "tinygpt", "conf")
        if changes and folder:
            (folder / "git.diff").write_bytes(changes)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.decode(), "dirty": bool(changes)}
