"""TensorBoard: its own reader finds the rows in the run folder."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tinygpt.components.loggers.tensorboard import TensorBoardConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import RunInfo


def write(folder: Path, steps: range, *, resumed_at: int | None = None, loss: float) -> None:
    logger = TensorBoardConfig().build()
    logger.start(RunInfo(folder, "id", None, {"seed": 7}, {"n_params": 42}, resumed_at))
    for step in steps:
        logger.log(step, {"train/loss": loss + step, "optim/lr": 0.5})
    logger.samples(steps[-1], ["Once upon\na time", "# not a heading"])
    logger.finish("finished", {})


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def text(found: Any, tag: str) -> str:
    return str(found.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode())


def test_scalars_samples_and_config_are_in_the_run_folder(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4), loss=0.5)
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [
        (1, 1.5),
        (2, 2.5),
        (3, 3.5),
    ]
    assert [e.value for e in found.Scalars("optim/lr")] == [0.5] * 3
    assert text(found, "samples/0") == "    Once upon\n    a time"
    assert '"seed": 7' in text(found, "config")
    assert '"n_params": 42' in text(found, "config")


def test_after_a_resume_the_rows_past_the_checkpoint_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, range(1, 7), loss=0.0)
    write(tmp_path, range(5, 9), resumed_at=4, loss=100.0)
    values = [(e.step, e.value) for e in read(tmp_path).Scalars("train/loss")]
    assert values == [(s, float(s)) for s in range(1, 5)] + [(s, 100.0 + s) for s in range(5, 9)]


def test_a_missing_library_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.raises(UserError, match=r'pip install "tinygpt\[tensorboard\]"'):
        TensorBoardConfig().build()
