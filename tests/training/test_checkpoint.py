"""After a crash at any moment, the last complete checkpoint loads bit for bit."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests import processes
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.optimizers.adamw import AdamWConfig
from tinygpt.errors import UserError
from tinygpt.language_model import LanguageModel
from tinygpt.training import checkpoint
from tinygpt.training.checkpoint import Checkpoints, load_model, load_state
from tinygpt.training.state import TrainState

FILES = ["checksums.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def new_state(
    model: LanguageModel | None = None, *, seed: int = 0, fp16: bool = False
) -> TrainState:
    torch.manual_seed(seed)
    model = model or GPTConfig(n_layer=1, n_head=1, d_model=4).build(vocab_size=11, seq_len=8)
    scaler = torch.amp.GradScaler("cpu", enabled=fp16, init_scale=512.0)
    return TrainState(model, AdamWConfig().build(model), scaler)


def trained(step: int, **fields: Any) -> TrainState:
    """A state with `step` updates behind it: the same one whenever it is asked for."""
    state = new_state()
    update(state, step)
    for name, value in fields.items():
        setattr(state, name, value)
    return state


def update(state: TrainState, times: int) -> None:
    for _ in range(times):
        tokens = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(state.step))
        state.scaler.scale(state.model(tokens).square().mean()).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        state.step += 1


def content(state: TrainState) -> dict[str, Any]:
    """Every value of the state, tensors as bytes, so that == means equal bit for bit."""

    def plain(value: Any) -> Any:
        return value.numpy().tobytes() if isinstance(value, Tensor) else value

    values = {key: value for key, value in vars(state).items() if not isinstance(value, nn.Module)}
    values |= {name: plain(tensor) for name, tensor in state.model.state_dict().items()}
    memory = state.optimizer.state_dict()["state"]
    values["optimizer"] = {i: {k: plain(v) for k, v in m.items()} for i, m in memory.items()}
    values["scaler"] = state.scaler.state_dict()
    return values


def loaded(path: Path | None) -> dict[str, Any]:
    assert path is not None
    state = new_state(seed=9)
    load_state(state, path)
    return content(state)


def no_warning(text: str) -> None:
    raise AssertionError(f"warned: {text}")


# Round trip


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = trained(
        3,
        tokens=12_345_678_901,
        elapsed_s=0.1 + 0.2,
        best_bpb=1 / 3,
        best_step=2,
        loss_sum=7.700000000000001,
        loss_count=4,
        callbacks={"early_stop": {"best": 5e-324, "misses": [1, None, "Ünïcödé \ud800"]}, "b": {}},
    )
    path = Checkpoints(tmp_path / "checkpoints").save(state)
    assert path == tmp_path / "checkpoints" / "step-00000003"
    assert loaded(path) == content(state)
    assert content(new_state(seed=9)) != content(state)


def test_values_that_are_not_numbers_yet_come_back_too(tmp_path: Path) -> None:
    state = trained(0, best_bpb=float("inf"))
    assert loaded(Checkpoints(tmp_path).save(state)) == content(state)


def test_five_updates_equal_three_a_checkpoint_and_two(tmp_path: Path) -> None:
    state = new_state(seed=9)
    load_state(state, Checkpoints(tmp_path).save(trained(3)))
    update(state, 2)
    assert content(state) == content(trained(5))


def test_the_optimizer_keeps_the_settings_it_was_built_with(tmp_path: Path) -> None:
    saved = trained(1)
    saved.optimizer.param_groups[0]["lr"] = 123.0  # of the schedule at that step
    state = new_state()
    before = [{**group, "params": None} for group in state.optimizer.param_groups]
    load_state(state, Checkpoints(tmp_path).save(saved))
    assert [{**group, "params": None} for group in state.optimizer.param_groups] == before


def test_the_scale_of_fp16_is_remembered_and_other_precisions_go_on_without(
    tmp_path: Path,
) -> None:
    state = new_state(fp16=True)
    update(state, 3)
    state.scaler.update(64.0)
    half = Checkpoints(tmp_path / "fp16").save(state)
    full = Checkpoints(tmp_path / "fp32").save(trained(3))

    again = new_state(fp16=True)
    load_state(again, half)
    assert again.scaler.state_dict() == state.scaler.state_dict()
    assert again.scaler.state_dict()["scale"] == 64.0
    load_state(new_state(), half)
    other = new_state(fp16=True)
    load_state(other, full)
    assert other.scaler.state_dict()["scale"] == 512.0


class Tied(LanguageModel):
    """The output is the embedding, by another name; one buffer is saved and one is not."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.constant_(self.head.weight, value)
        self.register_buffer("seen", torch.tensor([value]))
        self.register_buffer("mask", torch.tensor([value]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def test_a_tied_weight_is_stored_once_and_stays_tied(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(new_state(Tied(2.0)))
    assert load_file(path / "model.safetensors").keys() == {"embedding.weight", "seen"}
    model = Tied(0.0)
    load_model(model, path)
    assert model.head.weight is model.embedding.weight
    assert set(model.head.weight.flatten().tolist()) == {2.0}
    assert [float(buffer) for buffer in model.buffers()] == [2.0, 0.0]  # seen, mask


def test_a_checkpoint_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(trained(1))
    assert sorted(file.name for file in path.iterdir()) == FILES
    for file in path.glob("*.json"):
        assert isinstance(json.loads(file.read_text()), dict)
    for file in path.glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert all(entry["dtype"] == "F32" for entry in header.values())


# Another model


def test_another_model_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(trained(1))

    def refused(**changes: int) -> str:
        shape = {"n_layer": 1, "n_head": 1, "d_model": 4, "vocab_size": 11, **changes}
        vocab_size = shape.pop("vocab_size")
        model = GPTConfig(**shape).build(vocab_size=vocab_size, seq_len=8)  # type: ignore[arg-type]
        with pytest.raises(UserError) as error:
            load_model(model, path)
        return str(error.value)

    assert refused(n_layer=2).startswith(
        f"{path} is of another model: it differs in blocks.1.attention.out.bias, "
    )
    assert refused(vocab_size=12) == (
        f"{path} is of another model: token_embedding.weight is (11, 4) there and (12, 4) here"
    )


# Damage


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


DAMAGES: list[Callable[[Path], None]] = [flip, truncate, zero, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(trained(step))
    damage(checkpoints.path(2) / name)
    warnings: list[str] = []
    for find in (checkpoints.latest, checkpoints.best):
        assert find(warnings.append) == checkpoints.path(1)
    assert len(warnings) == 2
    assert all(f"{checkpoints.path(2)} is damaged and passed over: " in text for text in warnings)

    shutil.rmtree(checkpoints.path(1))
    assert checkpoints.latest(warnings.append) is None
    assert checkpoints.best(warnings.append) is None


def test_no_flipped_byte_is_ever_loaded(tmp_path: Path) -> None:
    """A changed byte is found, unless it is in the white space of checksums.json."""
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(trained(1))
    for name in FILES:
        file = path / name
        data = file.read_bytes()
        places = range(len(data)) if name.endswith("json") else range(0, len(data), 97)
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            file.write_bytes(changed)
            if checkpoints.latest(lambda text: None):
                assert name == "checksums.json"
                assert json.loads(bytes(changed)) == json.loads(data)
        file.write_bytes(data)
    assert checkpoints.latest(no_warning) == path


@pytest.mark.parametrize("text", ["{}", "[]", "null", '"state.json"', '{"state.json": 1}'])
def test_checksums_that_do_not_list_all_files_are_damage(tmp_path: Path, text: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(trained(1))
    (path / "checksums.json").write_text(text)
    assert checkpoints.latest(lambda warning: None) is None


def test_what_is_not_a_whole_checkpoint_is_never_taken_for_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == []
    assert checkpoints.latest(no_warning) is None
    whole = checkpoints.save(trained(1))
    shutil.copytree(whole, tmp_path / "partial-00000002")
    shutil.copytree(whole, tmp_path / "step-00000002.bak")
    assert checkpoints.steps() == [1]
    assert checkpoints.latest(no_warning) == whole
    (tmp_path / "step-00000003").mkdir()
    warnings: list[str] = []
    assert checkpoints.latest(warnings.append) == whole
    assert len(warnings) == 1
    assert not (checkpoints.save(trained(2)).parent / "partial-00000002").exists()


# While training goes on


class Gate:
    """Lets `save_file` through only when it is open."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.inside = self.most = 0
        patch.setattr(checkpoint, "save_file", self.pass_through)

    def pass_through(self, *arguments: Any) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        assert self.opened.wait(60)
        save_file(*arguments)
        self.inside -= 1


def test_what_is_written_is_the_state_as_it_was_when_the_save_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    state = trained(3, callbacks={"early_stop": {"misses": [1]}})
    before = content(state)
    checkpoints.start_saving(state)
    state.callbacks["early_stop"]["misses"].append(2)
    state.best_step = 1
    update(state, 2)
    gate.opened.set()
    checkpoints.wait()
    before["callbacks"] = {"early_stop": {"misses": [1]}}
    assert loaded(checkpoints.latest(no_warning)) == before


def test_a_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.start_saving(trained(1))
    opener = threading.Timer(0.05, gate.opened.set)
    opener.start()
    checkpoints.start_saving(trained(2))
    assert checkpoints.steps() == [1]
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    assert gate.most == 1


def test_what_went_wrong_behind_the_training_is_raised_once_by_who_asks_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, NO_SPACE)

    def started() -> Checkpoints:
        checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", full)
            checkpoints.start_saving(trained(1))
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()
        return checkpoints

    message = r"the disk of .*checkpoints is full: the checkpoint of step 1 does not fit"
    checkpoints = started()
    with pytest.raises(UserError, match=message):
        checkpoints.start_saving(trained(2))
    assert checkpoints.save(trained(2)) == checkpoints.path(2)
    with pytest.raises(UserError, match=message):
        started().wait()
    with pytest.raises(UserError, match=message), started().settled():
        pass
    with pytest.raises(UserError, match=message), started().settled():
        raise ValueError


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt])
def test_what_was_begun_is_whole_when_training_ends(
    tmp_path: Path, end: type[BaseException] | None
) -> None:
    checkpoints = Checkpoints(tmp_path)

    def train() -> None:
        with checkpoints.settled():
            checkpoints.start_saving(trained(1))
            if end is not None:
                raise end

    with pytest.raises(end) if end else nullcontext():
        train()
    assert loaded(checkpoints.latest(no_warning)) == content(trained(1))


def test_a_process_that_ends_while_it_writes_ends_well_and_the_checkpoint_is_whole(
    tmp_path: Path,
) -> None:
    script = f"""
import pathlib, torch
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.state import TrainState
model = torch.nn.Linear(2000, 2000)
scaler = torch.amp.GradScaler("cpu", enabled=False)
state = TrainState(model, torch.optim.SGD(model.parameters()), scaler)
Checkpoints(pathlib.Path({str(tmp_path)!r})).start_saving(state)
raise KeyboardInterrupt
"""
    done = processes.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode in (-signal.SIGINT, 1)  # exit handlers of torch._dynamo hide the signal
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert Checkpoints(tmp_path).latest(no_warning) == tmp_path / "step-00000000"


# Which ones are kept


def test_the_newest_k_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    state = new_state()
    kept = []
    for step, best in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 3), (7, 7), (8, 7), (9, 9)]:
        state.step, state.best_step = step, best
        checkpoints.save(state)
        kept.append(checkpoints.steps())
        assert checkpoints.latest(no_warning) == checkpoints.path(step)
        assert checkpoints.best(no_warning) == checkpoints.path(best)
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6], [6, 7], [7, 8], [8, 9]]


def test_steps_beyond_eight_digits_are_in_order(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    state = new_state()
    for state.step in (99_999_999, 100_000_000):
        checkpoints.save(state)
    assert checkpoints.steps() == [99_999_999, 100_000_000]
    assert checkpoints.latest(no_warning) == tmp_path / "step-100000000"


def test_a_best_checkpoint_that_is_damaged_is_named_and_the_newest_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(trained(step, best_step=1))
    flip(checkpoints.path(1) / "model.safetensors")
    warnings: list[str] = []
    assert checkpoints.best(warnings.append) == checkpoints.path(2)
    assert len(warnings) == 1
    assert f"the best checkpoint, {checkpoints.path(1)}, is damaged: " in warnings[0]


def test_a_run_that_came_back_past_damage_replaces_it_and_keeps_what_is_whole(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (2, 4):
        checkpoints.save(trained(step, best_step=2))
    flip(checkpoints.path(4) / "state.json")
    checkpoints.save(trained(3, best_step=2))
    assert checkpoints.steps() == [2, 3]  # 4 is no one's checkpoint any more
    flip(checkpoints.path(3) / "state.json")
    checkpoints.save(trained(3, best_step=2))
    assert checkpoints.steps() == [2, 3]
    assert loaded(checkpoints.latest(no_warning)) == content(trained(3, best_step=2))


# Death and a full disk


class Died(BaseException):
    """Nobody may catch it: the process is gone."""


class Mortal:
    """Lets the process die at its n-th operation on files: before it, or half-way through it."""

    def __init__(self, patch: pytest.MonkeyPatch, *, at: int) -> None:
        self.left = at
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
            patch.setattr(os, name, self.mortal(getattr(os, name)))
        patch.setattr(checkpoint, "save_file", self.mortal_write(save_file, 1))
        patch.setattr(Path, "write_text", self.mortal_write(Path.write_text, 0))

    def mortal(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self.breathe()
            return operation(*arguments, **options)

        return run

    def mortal_write(self, operation: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self.breathe()
            operation(*arguments)
            try:
                self.breathe()
            except Died:
                truncate(arguments[path_at])
                raise

        return run

    def breathe(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died


def deaths(
    save: Callable[[Checkpoints], object], start: Path, folder: Path, *, keep: int
) -> list[Checkpoints]:
    """What each death in `save` leaves of the checkpoints in `start`, and what no death leaves."""
    left = []
    for at in itertools.count():
        checkpoints = Checkpoints(folder / str(at), keep=keep)
        shutil.copytree(start, checkpoints.folder)
        left.append(checkpoints)
        with pytest.MonkeyPatch.context() as patch:
            Mortal(patch, at=at)
            try:
                save(checkpoints)
            except Died:
                continue
            return left
    raise AssertionError


@pytest.mark.parametrize(
    ("keep", "best"),
    # one or two checkpoints before it, of which the best is or is not the newest
    [
        *((1, 3), (2, 1)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, 1), (2, 2)]),
    ],
)
def test_death_at_any_file_operation_leaves_the_new_checkpoint_or_the_one_before(
    tmp_path: Path, keep: int, best: int
) -> None:
    start = Checkpoints(tmp_path / "start", keep=keep)
    for step in (1, 2):
        start.save(trained(step, best_step=min(step, best)))
    newest = trained(3, best_step=best)
    old, new = loaded(start.latest(no_warning)), content(newest)

    left = deaths(lambda c: c.save(newest), start.folder, tmp_path / "at", keep=keep)
    assert len(left) > 12
    found = [loaded(checkpoints.latest(no_warning)) for checkpoints in left]
    assert [item in (old, new) for item in found] == [True] * len(found)
    n_old = found.count(old)
    assert found == [old] * n_old + [new] * (len(found) - n_old)  # never back again
    assert 10 < n_old < len(found)
    for checkpoints in left:
        path = checkpoints.best(no_warning)
        assert path == checkpoints.path(loaded(checkpoints.latest(no_warning))["best_step"])

        checkpoints.save(newest)  # a resumed run comes to this step again
        assert loaded(checkpoints.latest(no_warning)) == new
        assert checkpoints.steps() == left[-1].steps()
        assert {p.name for p in checkpoints.folder.iterdir()} == {
            f"step-{step:08d}" for step in checkpoints.steps()
        }


def test_death_while_a_damaged_checkpoint_is_replaced_leaves_the_one_before(
    tmp_path: Path,
) -> None:
    start = Checkpoints(tmp_path / "start", keep=2)
    for step in (1, 2):
        start.save(trained(step))
    flip(start.path(2) / "model.safetensors")
    start.keep = 1

    second = trained(2)
    left = deaths(lambda c: c.save(second), start.folder, tmp_path / "at", keep=1)
    found = [loaded(checkpoints.latest(lambda text: None)) for checkpoints in left]
    assert [item["step"] for item in (found[0], found[-1])] == [1, 2]
    assert all(item in (content(trained(1)), content(second)) for item in found)


def test_death_in_the_first_checkpoint_of_all_leaves_none_or_that_one(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    first = trained(1)
    left = deaths(lambda c: c.save(first), tmp_path / "start", tmp_path / "at", keep=1)
    found = [checkpoints.latest(no_warning) for checkpoints in left]
    assert found[0] is None
    assert loaded(found[-1]) == content(first)
    assert all(path is None or loaded(path) == content(first) for path in found)


def test_everything_is_on_the_disk_before_the_name_is_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power may fail too: then only what was flushed is there."""
    flushed: set[int] = set()
    renamed: list[set[int]] = []
    fsync, rename = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    def noted_rename(source: Path, target: Path) -> None:
        inodes = {source.stat().st_ino, *(file.stat().st_ino for file in source.iterdir())}
        renamed.append(inodes - flushed)
        flushed.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_rename)
    Checkpoints(tmp_path).save(trained(1))
    assert renamed == [set()]
    assert tmp_path.stat().st_ino in flushed


def fill(state: TrainState, step: int) -> TrainState:
    """Make every number of the state its step."""
    state.step = state.tokens = step
    state.best_step = step - step % 3
    memory = (tensor for entry in state.optimizer.state.values() for tensor in entry.values())
    for tensor in [*state.model.parameters(), *memory]:
        tensor.detach().fill_(step)
    return state


@pytest.mark.parametrize(
    ("behind", "n_kills"),
    # as a run saves; waiting is the simpler one
    [(1, 8), *(pytest.param(behind, 15, marks=pytest.mark.slow) for behind in (0, 1))],
    ids=["going on", "waiting, often", "going on, often"],
)
def test_a_process_that_is_really_killed_leaves_the_last_checkpoint_it_finished_or_a_newer(
    tmp_path: Path, behind: int, n_kills: int
) -> None:
    """`behind` is how many saves may be under way when the next one has begun."""
    rng = random.Random(0)
    checkpoints = Checkpoints(tmp_path)
    state, step = trained(1), 3
    checkpoints.save(fill(state, step))
    for _ in range(n_kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for later in itertools.count(step + 1):
                    checkpoints.start_saving(fill(state, later))
                    if not behind:
                        checkpoints.wait()
                    os.write(writer, b".")
            finally:
                os._exit(1)
        os.close(writer)
        os.read(reader, 1)  # the first save is through
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        finished = step + 1 - behind + len(os.read(reader, 1 << 16))
        os.close(reader)

        found = loaded(checkpoints.latest(no_warning))
        step = found["step"]
        assert finished <= step <= finished + 1 + behind
        assert found == content(fill(state, step))
        assert checkpoints.best(no_warning) == checkpoints.path(found["best_step"])


NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("owner", "write", "error"),
    [  # as safetensors says it on a full tmpfs, and as Python does
        (checkpoint, "save_file", SafetensorError(f"I/O error: {NO_SPACE} (os error 28)")),
        (Path, "write_text", OSError(errno.ENOSPC, NO_SPACE)),
        (os, "fsync", OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))),
    ],
)
def test_a_full_disk_is_reported_and_the_checkpoint_before_is_whole(
    tmp_path: Path, owner: object, write: str, error: Exception
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(trained(1))

    def full(*arguments: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, write, full)
        with pytest.raises(UserError) as refusal:
            checkpoints.save(trained(2))
    assert str(refusal.value) == (
        f"the disk of {folder} is full: the checkpoint of step 2 does not fit; "
        f"make room and go on with resume={tmp_path / 'run'}"
    )
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert loaded(checkpoints.latest(no_warning)) == content(trained(1))


def test_another_failure_to_write_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_text", denied)
    with pytest.raises(PermissionError):
        Checkpoints(tmp_path).save(trained(1))
