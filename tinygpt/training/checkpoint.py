"""Save and load TrainState atomically: a checkpoint is complete and verified, or does not exist.

`checkpoints/step-00000100/` holds model.safetensors, optimizer.safetensors, state.json,
checksums.json and, with trainer.ema, the averaged weights in ema.safetensors. A background thread
writes it from a copy of the state, under a temporary name, flushes it to disk and renames it. The
copy doubles the memory of the state until it is written.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tinygpt.errors import UserError
from tinygpt.files import flush, is_disk_full, rename_durably
from tinygpt.hardware.parallel import handed_out, whole
from tinygpt.hardware.ranks import Ranks
from tinygpt.hardware.runtime import host_copies
from tinygpt.training.averaging import Averages
from tinygpt.training.state import TrainState

# fields of TrainState that are not in state.json
_TENSORS = ("model", "optimizer", "scaler", "ema")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_EMA = "ema.safetensors"
_CHUNK = 1 << 24  # bytes per hash call; each call waits for the GIL once


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best.

    With several ranks, only the main rank has `writes=True`. The others call the same methods to
    send it their shards of the model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 1,
        writes: bool = True,
        on_first_save: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.on_first_save = on_first_save
        self.keep = keep
        self.writes = writes
        self.took_s = 0.0  # seconds from the start of the newest save until it was on disk
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in increasing order."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, state: TrainState) -> Path:
        """Save the state, then delete older checkpoints except the best; raises UserError.

        If the process is killed at any point, this checkpoint or the previous one is complete.
        """
        self.start_saving(state)
        self.wait()
        return self.path(state.step)

    def start_saving(self, state: TrainState) -> None:
        """Copy the state and save the copy in the background, while training continues.

        First waits for the previous save and re-raises its error, if any.
        """
        if not self.writes:
            for tensor in [
                *model_tensors(state.model).values(),
                *_optimizer_state(state)[0].values(),
                *state.ema.values(),
            ]:
                whole(tensor)
            return
        self.wait()
        began = time.perf_counter()
        snapshot, written = _Snapshot.of(state), Future[None]()

        def write() -> None:
            try:
                self._save(snapshot)
                self.took_s = time.perf_counter() - began
                written.set_result(None)
            except BaseException as error:  # re-raised by `wait` in the main thread
                written.set_exception(error)

        self._writing = written
        # not a daemon: Python would kill it inside a library call, which aborts the process
        Thread(target=write, name="checkpoint").start()

    def wait(self) -> None:
        """Wait for the pending save; re-raises its error once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Context manager that waits for the pending save on exit, even after an exception."""
        try:
            yield
        finally:
            self.wait()

    def _save(self, snapshot: "_Snapshot") -> None:
        step = snapshot.step
        target = self.path(step)
        partial = self.folder / f"partial-{step:08d}"
        for leftover in self.folder.glob("partial-*"):  # left by a process that was killed
            shutil.rmtree(leftover)
        try:
            rows = self.folder.parent / "metrics.jsonl"
            if rows.exists():  # resuming needs the rows before the checkpoint
                flush(rows)
            _write(snapshot, partial)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not is_disk_full(error):
                raise
            raise UserError(
                f"the disk of {self.folder} is full: the checkpoint of step {step} does not "
                f"fit; make room and go on with resume={self.folder.parent}"
            ) from None
        if target.exists():  # a damaged checkpoint that the resumed run reached again
            shutil.rmtree(target)
        rename_durably(partial, target)
        if self.on_first_save:
            self.on_first_save()
            self.on_first_save = None
        # newer checkpoints are damaged; otherwise the run would have resumed from them
        past = [saved for saved in self.steps() if saved <= step]
        for old in {*self.steps()} - {*past[-self.keep :], *snapshot.best_steps}:
            shutil.rmtree(self.path(old))

    def latest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest undamaged checkpoint, or None; `warn` names each damaged one it skips."""
        for step in reversed(self.steps()):
            damage = _damage(self.path(step))
            if damage is None:
                return self.path(step)
            warn(f"checkpoint {self.path(step)} is damaged and passed over: {damage}")
        return None

    def best(self, warn: Callable[[str], None], *, ema: bool = False) -> Path | None:
        """The checkpoint with the lowest val/bpb, else the newest; None if there is none.

        With `ema` it has the lowest val/bpb_ema.
        """
        latest = self.latest(warn)
        if latest is None:
            return None
        key = "best_step_ema" if ema else "best_step"
        best_step = json.loads((latest / "state.json").read_text()).get(key)
        best = self.path(best_step) if best_step is not None else latest
        damage = _damage(best)
        if damage is None:
            return best
        warn(f"the best checkpoint, {best}, is damaged: {damage}; using {latest.name}, the newest")
        return latest


@dataclass(frozen=True)
class _Snapshot:
    """A copy of a complete state at one moment."""

    step: int
    best_steps: tuple[int | None, ...]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: dict[str, Tensor]
    plain: str  # the other fields, as JSON
    copied: Callable[[], None]  # waits until the copies from the device are complete

    @classmethod
    def of(cls, state: TrainState) -> "_Snapshot":
        """Copy the state; copies from a device are asynchronous until `copied` is called."""
        tensors, scalars = _optimizer_state(state)
        (model, optimizer, ema), copied = host_copies(
            model_tensors(state.model), tensors, state.ema
        )
        plain = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in _TENSORS}
        plain |= {"optimizer": scalars, "scaler": state.scaler.state_dict()}
        text = json.dumps(plain, indent=2)
        best = state.best_step, state.best_step_ema
        return cls(state.step, best, model, optimizer, ema, text, copied)


def _write(snapshot: _Snapshot, folder: Path) -> None:
    """Write all files of a checkpoint and flush them to disk."""
    folder.mkdir(parents=True)
    snapshot.copied()
    save_file(snapshot.model, folder / "model.safetensors")
    save_file(snapshot.optimizer, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(snapshot.plain)
    if snapshot.ema:
        save_file(snapshot.ema, folder / _EMA)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2))
    for path in [*folder.iterdir(), folder]:
        flush(path)


def load_model(
    model: nn.Module, path: Path | None, ranks: Ranks | None = None, *, ema: bool = False
) -> None:
    """Copy a checkpoint's weights into the model; raises UserError if names or shapes differ.

    With several ranks, only the main rank reads the file; the others pass None as `path`. With
    `ema` the parameters are the averaged ones.
    """
    own = model_tensors(model)
    saved = _SavedTensors(path and path / "model.safetensors", ranks or Ranks(alone=True))
    if saved.shapes.keys() != own.keys():
        odd = sorted(saved.shapes.keys() ^ own.keys())
        raise UserError(f"{path} is of another model: it differs in {', '.join(odd[:3])}")
    for name, tensor in own.items():
        if tensor.shape != saved.shapes[name]:
            raise UserError(
                f"{path} is of another model: {name} is {tuple(saved.shapes[name])} there "
                f"and {tuple(tensor.shape)} here"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved.take(name, like=tensor))
    if ema:
        assert path, "averages are loaded by one process"
        if not (path / _EMA).exists():
            raise UserError(
                f"{path} has no averaged weights, because the run has no trainer.ema; "
                "type ema=false"
            )
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _load_ema(trained, path, Ranks(alone=True))


def _load_ema(into: Mapping[str, Tensor], path: Path | None, ranks: Ranks) -> None:
    saved = _SavedTensors(path and path / _EMA, ranks)
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(saved.take(name, like=tensor))


def load_state(state: TrainState, path: Path | None, ranks: Ranks | None = None) -> None:
    """Load a checkpoint into a newly built state; `path` is as in `load_model`."""
    ranks = ranks or Ranks(alone=True)
    load_model(state.model, path, ranks)
    plain = ranks.from_main(lambda: _plain(path))
    saved = _SavedTensors(path and path / "optimizer.safetensors", ranks)
    own = dict(state.model.named_parameters())
    tensors = {key: saved.take(key, like=own[key.rsplit("/", 1)[0]]) for key in saved.shapes}
    _load_optimizer(state, tensors, plain.pop("optimizer"))
    if isinstance(state.optimizer, Averages):
        state.optimizer.to_training()
    if scaler := plain.pop("scaler"):  # {} if the run used another precision
        state.scaler.load_state_dict(scaler)
    for name, value in plain.items():
        setattr(state, name, value)
    has_ema = ranks.from_main(lambda: path is not None and (path / _EMA).exists())
    if state.ema and has_ema:
        _load_ema(state.ema, path, ranks)
    else:
        state.ema_updates = 0


def _plain(path: Path | None) -> dict[str, Any]:
    assert path, "the main rank has one"
    content: dict[str, Any] = json.loads((path / "state.json").read_text())
    return content


class _SavedTensors:
    """Tensors of a file, read one at a time by the main rank and sent to all ranks."""

    def __init__(self, path: Path | None, ranks: Ranks) -> None:
        self._ranks = ranks
        self._file: Any = safe_open(path, "pt") if path else None
        entries: dict[str, tuple[str, list[int]]] = ranks.from_main(self._entries)
        self.shapes = {name: torch.Size(shape) for name, (_, shape) in entries.items()}
        self._types = {name: getattr(torch, dtype) for name, (dtype, _) in entries.items()}

    def _entries(self) -> dict[str, tuple[str, list[int]]]:
        assert self._file, "the main rank reads one"
        tensors = {name: self._file.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118
        return {n: (str(t.dtype).removeprefix("torch."), [*t.shape]) for n, t in tensors.items()}

    def take(self, name: str, *, like: Tensor) -> Tensor:
        """The tensor, or this rank's shard of it if `like` is sharded; all ranks must call this."""
        if self._file:
            value = self._file.get_tensor(name)
        else:
            value = torch.empty(self.shapes[name], dtype=self._types[name])
        return handed_out(value, like, self._ranks)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied weight appears once."""
    persistent = model.state_dict(keep_vars=True)
    buffers = [(name, t) for name, t in model.named_buffers() if name in persistent]
    return {name: t.detach() for name, t in [*model.named_parameters(), *buffers]}


def _optimizer_state(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors and plain values, keyed `<parameter>/<state name>`."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    names = _parameter_names(state.model, state.optimizer)
    for index, entries in state.optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else scalars
            target[f"{names[index]}/{key}"] = value
    return tensors, scalars


def _load_optimizer(state: TrainState, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    indices = {name: i for i, name in enumerate(_parameter_names(state.model, state.optimizer))}
    entries: dict[int, dict[str, Any]] = {}
    for path, value in (tensors | scalars).items():
        name, key = path.rsplit("/", 1)
        entries.setdefault(indices[name], {})[key] = value
    # parameter groups (lr, weight decay) come from the config, not from the checkpoint
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The name of each parameter, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _damage(path: Path) -> str | None:
    """A description of the damage to a checkpoint's files, or None."""
    try:
        sums = json.loads((path / "checksums.json").read_text())
        for name in {*_FILES, *sums}:
            if _sha256(path / name) != sums[name]:
                return f"{name} has another checksum"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return "checksums.json does not list the files"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
