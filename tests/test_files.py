"""A file that is replaced is the old one or the new one after any crash."""

import ast
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tinygpt.files import rename_durably, replacing, write_atomically

PACKAGE = Path(__file__).parents[1] / "tinygpt"
OPERATIONS = ("open", "fsync", "replace")


class Died(BaseException):
    """The process is gone: nothing after it runs."""


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the process die before its n-th file operation; it cannot clean up either."""

    def arrange(at: int) -> None:
        count = iter(range(100))

        def mortal(operation: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                if next(count) >= at:
                    raise Died
                return operation(*arguments, **options)

            return run

        for name in (*OPERATIONS, "unlink"):
            monkeypatch.setattr(os, name, mortal(getattr(os, name)))
        monkeypatch.setattr(Path, "write_bytes", mortal(Path.write_bytes))

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("at", range(8))
def test_death_at_any_operation_leaves_the_old_content_or_the_new(
    tmp_path: Path, dies: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    dies(at)
    died = False
    try:
        write_atomically(path, "new")
    except Died:
        died = True
    monkeypatch.undo()
    assert died == (at < 6)  # write, open, flush, rename, open and flush of the folder
    assert path.read_text() == ("old" if at < 4 else "new")
    write_atomically(path, "after")  # what the dead process left is no obstacle
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "after"


def test_the_disk_holds_the_content_before_the_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, Any]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append(("flush", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(("rename", os.stat(source).st_ino))  # noqa: PTH116
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "a.txt", "größer 🙂")
    file, folder = (tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino
    assert events == [("flush", file), ("rename", file), ("flush", folder)]
    assert (tmp_path / "a.txt").read_bytes() == "größer 🙂".encode()

    events.clear()
    (tmp_path / "b.partial").mkdir()
    rename_durably(tmp_path / "b.partial", tmp_path / "b")
    assert events == [("rename", (tmp_path / "b").stat().st_ino), ("flush", folder)]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new")
    with suppress(KeyError), replacing(path) as partial:
        partial.write_text("half of")
        raise KeyError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_no_other_module_renames_a_file() -> None:
    """One place knows in which order to flush and rename."""
    # moving a damaged folder out of the way in preparation.py replaces nothing
    sources = [p for p in PACKAGE.rglob("*.py") if p.name not in ("files.py", "preparation.py")]
    assert len(sources) > 200
    for source in sources:
        text = source.read_text()
        for node in ast.walk(ast.parse(text)) if re.search(r"\.(rename|replace)", text) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, owner = node.func.attr, ast.unparse(node.func.value)
                renames = name in ("rename", "renames") or (
                    name == "replace" and (owner == "os" or len(node.args) == 1)
                )
                assert not renames, f"{source}: {ast.unparse(node)}"
