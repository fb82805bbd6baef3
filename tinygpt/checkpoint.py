"""TrainState <-> folder, atomically: a checkpoint is whole and verified, or it does not exist.

`checkpoints/step-00000100/` holds model.safetensors, optimizer.safetensors, state.json and
checksums.json.  It is written under another name, flushed to the disk, and renamed.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tinygpt.errors import UserError
from tinygpt.state import TrainState

_TENSORS = ("model", "optimizer", "scaler")  # the fields of TrainState that state.json leaves out
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best."""

    def __init__(self, folder: Path, *, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}"

    def save(self, state: TrainState) -> Path:
        """Write the state and remove what is older, except the best; raises UserError.

        Whenever the process dies in here, this checkpoint or the one before it is whole.
        """
        target = self.path(state.step)
        partial = self.folder / f"partial-{state.step:08d}"
        for leftover in self.folder.glob("partial-*"):  # of a process that died
            shutil.rmtree(leftover)
        try:
            _write(state, partial)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not any(os.strerror(code) in str(error) for code in _DISK_FULL):
                raise
            raise UserError(
                f"the disk of {self.folder} is full: the checkpoint of step {state.step} does not "
                f"fit; make room and go on with resume={self.folder.parent}"
            ) from None
        if target.exists():  # a damaged one that a resumed run came back to
            shutil.rmtree(target)
        partial.rename(target)
        _flush(self.folder)
        # newer ones are damaged, or the run would not have come back to this step
        past = [step for step in self.steps() if step <= state.step]
        for step in {*self.steps()} - {*past[-self.keep :], state.best_step}:
            shutil.rmtree(self.path(step))
        return target

    def latest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest undamaged checkpoint, or None; a damaged one is named and passed over."""
        for step in reversed(self.steps()):
            damage = _damage(self.path(step))
            if damage is None:
                return self.path(step)
            warn(f"checkpoint {self.path(step)} is damaged and passed over: {damage}")
        return None

    def best(self, warn: Callable[[str], None]) -> Path | None:
        """The checkpoint with the lowest val/bpb, else the newest; None without any."""
        latest = self.latest(warn)
        if latest is None:
            return None
        best_step = json.loads((latest / "state.json").read_text())["best_step"]
        best = self.path(best_step) if best_step is not None else latest
        damage = _damage(best)
        if damage is None:
            return best
        warn(f"the best checkpoint, {best}, is damaged: {damage}; using {latest.name}, the newest")
        return latest


def _write(state: TrainState, folder: Path) -> None:
    """Write all files of a checkpoint and have the disk hold them."""
    folder.mkdir(parents=True)
    optimizer_tensors, optimizer_scalars = _optimizer_state(state)
    save_file(_model_tensors(state.model), folder / "model.safetensors")
    save_file(optimizer_tensors, folder / "optimizer.safetensors")
    plain = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in _TENSORS}
    plain |= {"optimizer": optimizer_scalars, "scaler": state.scaler.state_dict()}
    (folder / "state.json").write_text(json.dumps(plain, indent=2))
    sums = {name: _sha256(folder / name) for name in _FILES}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2))
    for path in [*folder.iterdir(), folder]:
        _flush(path)


def load_model(model: nn.Module, path: Path) -> None:
    """Copy a checkpoint's weights into the model; raises UserError if they do not fit."""
    saved = load_file(path / "model.safetensors")
    own = _model_tensors(model)
    if saved.keys() != own.keys():
        odd = sorted(saved.keys() ^ own.keys())
        raise UserError(f"{path} is of another model: it differs in {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != saved[name].shape:
                raise UserError(
                    f"{path} is of another model: {name} is {tuple(saved[name].shape)} there "
                    f"and {tuple(tensor.shape)} here"
                )
            tensor.copy_(saved[name])


def load_state(state: TrainState, path: Path) -> None:
    """Put a checkpoint's values into a freshly built state."""
    load_model(state.model, path)
    plain = json.loads((path / "state.json").read_text())
    tensors = load_file(path / "optimizer.safetensors")
    _load_optimizer(state, tensors, plain.pop("optimizer"))
    if scaler := plain.pop("scaler"):  # {} of a run in another precision
        state.scaler.load_state_dict(scaler)
    for name, value in plain.items():
        setattr(state, name, value)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied weight appears once."""
    persistent = model.state_dict(keep_vars=True)
    buffers = [(name, t) for name, t in model.named_buffers() if name in persistent]
    return {name: t.detach() for name, t in [*model.named_parameters(), *buffers]}


def _optimizer_state(state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's memory, tensors apart from plain values, keyed `<parameter>/<what>`."""
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
    # groups, such as weight decay, follow from the config and stay as they were built
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The model's name of each parameter, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words, or None."""
    try:
        sums = json.loads((path / "checksums.json").read_text())
        for name in _FILES:
            if _sha256(path / name) != sums[name]:
                return f"{name} has another checksum"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return "checksums.json does not list the files"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold what was written, so that a rename cannot overtake it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
