"""Parts of a hub dataset: bytes downloaded, what is cached, and network faults.

Each case has a repo of its own, of which the hub counts the bytes, and all are read by one process.
"""

import io
import random
import re
from collections.abc import Callable
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.hub import remote_parquet
from tinygpt.errors import UserError

RANDOM = random.Random(0)
N_FILES, FILE_ROWS, GROUP_ROWS = 4, 400, 8
ROWS = [f"{i} {RANDOM.randbytes(1000).hex()}" for i in range(N_FILES * FILE_ROWS)]
ROW = 1040  # bytes that a row takes in a file, as two hex digits are compressed to one byte
FOOTER = 66_000  # bytes read of a file to know what is where, at most
VALIDATION = [f"Unseen story {i}." for i in range(20)]


def table(texts: list[str], **columns: Any) -> bytes:
    file = io.BytesIO()
    data = pa.table({"text": texts, **columns})
    options: Any = {"row_group_size": GROUP_ROWS, "compression": "zstd", "write_statistics": False}
    parquet.write_table(data, file, **options)
    return file.getvalue()


# these files are made when they are first asked for: every worker imports this module


@cache
def large() -> dict[str, bytes]:
    parts = [ROWS[i : i + FILE_ROWS] for i in range(0, len(ROWS), FILE_ROWS)]
    files = {f"data/train-{i:05}-of-00004.parquet": table(part) for i, part in enumerate(parts)}
    return files | {"data/validation-00000-of-00001.parquet": table(VALIDATION)}


def pictures() -> dict[str, bytes]:
    picture = [RANDOM.randbytes(10_000) for _ in range(FILE_ROWS)]
    return {"a.parquet": table(ROWS[:FILE_ROWS], picture=picture)}


def lines() -> dict[str, bytes]:
    return {"train.jsonl": b"".join(b'{"text": "story %d"}\n' % i for i in range(50))}


def one_file() -> dict[str, bytes]:
    return {"stories.parquet": table(ROWS[:100])}


SLICED = {"train_rows": "20:", "validation_split": "train", "validation_rows": "10:20"}
A_LOT: dict[str, Any] = {"fraction": 0.5}
PASSING = [None, "cut", 500, None, "cut", 503, None, 429]
# name -> the files, what is asked of them, and what becomes of the requests for contents
CASES: dict[str, tuple[Callable[[], dict[str, bytes]], dict[str, Any], Any]] = {
    "hundredth": (large, {"fraction": 0.01}, repeat(None)),
    "quarter": (large, {"fraction": 0.25}, repeat(None)),
    "nine": (large, {"max_documents": 9}, repeat(None)),
    "held_out": (large, {"validation_split": None, "fraction": 0.1}, repeat(None)),
    "pictures": (pictures, {"fraction": 0.2}, repeat(None)),
    "lines": (lines, {"validation_split": None, "max_documents": 20}, repeat(None)),
    "sliced": (one_file, SLICED, repeat(None)),
    "sliced_part": (one_file, SLICED | {"max_documents": 30}, repeat(None)),
    "beyond": (one_file, SLICED | {"train_rows": "20:101"}, repeat(None)),
    "column": (large, {"fraction": 0.5, "text_column": "txet"}, repeat(None)),
    "passing": (large, A_LOT, chain(PASSING, repeat(None))),
    "passing_whole": (large, {}, chain([None, "cut", 500], repeat(None))),
    "500": (large, A_LOT, chain([None] * 3, repeat(500))),
    "cut": (large, A_LOT, chain([None] * 3, repeat("cut"))),
    "404": (large, A_LOT, chain([None] * 3, repeat(404))),
    "403": (large, A_LOT, chain([None] * 3, repeat(403))),
    "whole": (large, A_LOT, chain([None] * 3, repeat("whole"))),
}


def asked(case: str, **changed: Any) -> dict[str, Any]:
    return {"repo": f"someone/{case}", **CASES[case][1], **changed}


@pytest.fixture(scope="module")
def answers(machine: Any) -> dict[str, dict[str, Any]]:
    """What a machine gets that has read nothing before."""
    for name, (files, _, faults) in CASES.items():
        machine.hub.repos[f"someone/{name}"] = files()
        machine.hub.faults[f"someone/{name}"] = faults
    return dict(zip(CASES, machine.load(*map(asked, CASES)), strict=True))


@pytest.fixture(scope="module")
def served(machine: Any, answers: Any) -> dict[str, int]:
    """Bytes of contents that each case took from the hub."""
    return {name: machine.hub.served[f"someone/{name}"] for name in CASES}


@pytest.mark.parametrize(("case", "n"), [("hundredth", 16), ("quarter", 400), ("nine", 9)])
def test_a_part_of_the_rows_costs_that_part_of_the_download(
    answers: dict[str, Any], served: dict[str, int], case: str, n: int
) -> None:
    assert answers[case]["train"] == ROWS[:n]
    assert answers[case]["validation"] == VALIDATION
    n_footers = 2 if case == "nine" else N_FILES + 1
    validation = 2000
    assert n * 1000 < served[case] < (n + GROUP_ROWS) * ROW + n_footers * FOOTER + validation


def test_where_validation_is_held_out_it_comes_from_the_rows_that_are_downloaded(
    answers: dict[str, Any], served: dict[str, int]
) -> None:
    answer = answers["held_out"]
    assert sorted(answer["train"] + answer["validation"]) == sorted(ROWS[:160])
    assert answer["validation"]
    assert served["held_out"] < 168 * ROW + N_FILES * FOOTER


def test_other_columns_are_not_downloaded(answers: dict[str, Any], served: dict[str, int]) -> None:
    assert len(answers["pictures"]["train"] + answers["pictures"]["validation"]) == 80
    assert served["pictures"] < 88 * ROW + FOOTER


def test_the_choice_is_recorded_by_commit_files_and_rows(machine: Any, answers: Any) -> None:
    provenance = answers["hundredth"]["provenance"]
    assert provenance["commit"] == machine.hub.commit
    assert provenance["files"]["validation"] == ["data/validation-00000-of-00001.parquet"]
    assert provenance["rows"]["train"] == {"split": "train", "start": 0, "stop": 16}
    assert answers["hundredth"]["identity"]["source"] == ["someone/hundredth", "main"]


def test_the_size_of_the_text_is_known_before_it_is_read(answers: dict[str, Any]) -> None:
    size = sum(map(len, ROWS[:16] + VALIDATION))
    assert answers["hundredth"]["estimate"] == pytest.approx(size, rel=0.1)


def test_rows_of_one_split_can_be_train_and_validation(answers: dict[str, Any]) -> None:
    assert answers["sliced"]["train"] == ROWS[20:100]
    assert answers["sliced_part"]["train"] == ROWS[20:50]
    assert answers["sliced"]["validation"] == answers["sliced_part"]["validation"] == ROWS[10:20]
    assert answers["beyond"]["error"] == (
        "dataset.train_rows=20:101 is not within the 100 rows of train"
    )


def test_a_repo_that_is_not_parquet_is_read_to_the_same_limit(answers: dict[str, Any]) -> None:
    assert len(answers["lines"]["train"] + answers["lines"]["validation"]) == 20


def test_an_unknown_column_is_named_before_a_row_is_downloaded(
    answers: dict[str, Any], served: dict[str, int]
) -> None:
    assert re.search(
        r"^dataset.text_column=txet is not a column; did you mean text\?\n"
        r"  columns of dataset.repo=someone/column data/train-0.*: text \(string\)$",
        answers["column"]["error"],
    )
    assert served["column"] < (N_FILES + 1) * FOOTER


@pytest.mark.parametrize(("case", "n"), [("passing", 800), ("passing_whole", 1600)])
def test_a_passing_fault_of_the_network_changes_nothing(
    answers: dict[str, Any], case: str, n: int
) -> None:
    assert answers[case].get("error") is None
    assert answers[case]["train"] == ROWS[:n]
    assert answers[case]["validation"] == VALIDATION


@pytest.mark.parametrize(
    ("case", "message", "requests"),
    [
        ("500", r"cannot be had from the hub, asked 6 times: Server error '500", 6),
        ("cut", r"cannot be had from the hub, asked 6 times: .*\n  what came before is kept", 6),
        ("404", r"is not on the hub \(404\), though .* another dataset.revision=COMMIT", 1),
        ("403", r"is refused: .*403.*; log in with: hf auth login", 1),
        ("whole", r": the hub, or a proxy before it, sends only whole files; leave out dataset", 1),
    ],
)
def test_a_lasting_fault_ends_after_some_attempts_with_the_file_and_what_to_do(
    machine: Any, answers: dict[str, Any], case: str, message: str, requests: int
) -> None:
    error = answers[case]["error"]
    assert error.startswith(f"dataset.repo=someone/{case} data/train-0000")
    assert re.search(message, error)
    calls = [c for c in machine.hub.calls if c.startswith(f"GET /cdn/datasets/someone/{case}/")]
    assert len(calls) == 3 + requests


def test_what_came_once_is_not_downloaded_again_even_if_more_is_wanted(
    machine: Any, answers: dict[str, Any]
) -> None:
    machine.hub.served.clear()
    machine.hub.faults.clear()
    again, more, _ = machine.load(
        asked("hundredth"), asked("quarter", fraction=0.255), asked("500")
    )
    assert again["train"] == ROWS[:16]
    assert not machine.hub.served["someone/hundredth"]
    assert more["train"] == ROWS[:408]
    assert 0 < machine.hub.served["someone/quarter"] < 24 * ROW
    assert machine.hub.served["someone/500"] > 500_000  # and now it comes
    [offline] = machine.load(asked("hundredth"), network=False)
    assert offline["train"] == ROWS[:16]
    assert offline["provenance"] == answers["hundredth"]["provenance"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_with_its_way_out(tmp_path: Path) -> None:
    def download() -> None:
        with remote_parquet._made(tmp_path / "0.arrow") as partial:
            partial.symlink_to("/dev/full")
            partial.write_bytes(b"a row group")

    message = f"the disk of the cache of downloads, {tmp_path}, is full; make room, or set HF_HOME"
    with pytest.raises(UserError, match=message):
        download()
    assert not list(tmp_path.iterdir())
