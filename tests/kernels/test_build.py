"""The library of kernels: compiled once, kept, checked before it is loaded."""

import _ctypes
import os
import platform
import shlex
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.kernels.compiled import compile_kernels
from tinygpt import kernels
from tinygpt.kernels import Dropout, Formulas, build
from tinygpt.kernels.build import Build, NotBuiltError
from tinygpt.kernels.formulas import Heads, Linear, Norm
from tinygpt.kernels.fused import Fused


@pytest.fixture(autouse=True)
def formulas_afterwards() -> Iterator[None]:
    yield
    kernels.choose(None)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache" / "tinygpt" / "kernels"


@pytest.fixture(scope="module")
def library() -> Path:
    """The library for float32 in the cache that all tests share."""
    Build(torch.float32).finish()
    gcc = shutil.which("gcc")
    assert gcc
    path = build._kept(build.CACHE.expanduser(), build._key(gcc, torch.float32))
    assert path
    return path


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this shell script be the only gcc."""
    folder.mkdir()
    gcc = folder / "gcc"
    gcc.write_text(f"#!/bin/sh\n{script}\n")
    gcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def quick_gcc(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that takes no time: whatever the source, it links the library above."""
    script = f'case "$*" in *-shared*) /bin/cp {shlex.quote(str(library))} kernels.so ;; esac'
    compiler(tmp_path / "quick", script, monkeypatch)


@pytest.mark.gcc
@pytest.mark.usefixtures("quick_gcc")
@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "another", "shared", "old name"])
def test_a_library_that_is_not_as_it_was_compiled_is_compiled_again(
    damage: str, fresh: Path
) -> None:
    Build(torch.float32).finish()
    (kept,) = fresh.iterdir()
    content = kept.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes(b ^ 255 for b in content[middle:])
    another = Path(_ctypes.__file__).read_bytes()
    damaged = {"half": content[:middle], "empty": b"", "flipped": flipped, "another": another}
    kept.unlink()  # this process has it in memory: writing into it would end the process
    old_name = fresh / f"{kept.stem.split('-')[0]}.so"
    written = old_name if damage == "old name" else kept
    written.write_bytes(damaged.get(damage, content))
    written.chmod(0o777 if damage == "shared" else 0o700)
    Build(torch.float32).finish()  # would end the process, or fail, if it loaded what is there
    assert list(fresh.iterdir()) == [kept]
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.gcc
def test_an_intact_library_is_loaded_without_a_compiler_at_work(library: Path, fresh: Path) -> None:
    fresh.mkdir(parents=True)
    shutil.copy(library, fresh)
    before = (fresh / library.name).stat().st_ino
    Build(torch.float32).finish()
    assert (fresh / library.name).stat().st_ino == before


@pytest.mark.gcc
@pytest.mark.usefixtures("quick_gcc")
def test_other_users_cannot_write_into_the_cache(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    Build(torch.float32).finish()
    assert fresh.stat().st_mode & 0o777 == 0o700


@pytest.mark.gcc
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_cache_of_another_user_is_not_trusted(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    os.chown(fresh, 65534, 65534)
    with pytest.raises(NotBuiltError, match="kernels belongs to another user"):
        Build(torch.float32).finish()


@pytest.mark.gcc
def test_a_compiler_that_hangs_is_ended(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"/bin/sleep 987 &\necho $! >> {tmp_path}/children\nwait"
    compiler(tmp_path / "bin", script, monkeypatch)
    monkeypatch.setattr(build, "BUILD_S", 1.0)
    with pytest.raises(NotBuiltError, match="gcc did not finish within 1 s"):
        Build(torch.float32).finish()
    assert not list(fresh.iterdir())
    for child in (tmp_path / "children").read_text().split():
        stat = Path(f"/proc/{child}/stat")  # gone, or dead and waiting for its exit code to be read
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.gcc
@pytest.mark.usefixtures("quick_gcc")
def test_another_compiler_makes_another_library(library: Path, fresh: Path) -> None:
    fresh.mkdir(parents=True)
    shutil.copy(library, fresh)
    Build(torch.float32).finish()
    assert len(list(fresh.iterdir())) == 2


def test_without_gcc_the_formulas_are_used_and_the_log_says_so(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    kernels.choose(torch.bfloat16)
    assert kernels.describe() == "torch (fused ones need Linux and gcc)"
    x = torch.ones(1)
    alive = weakref.ref(x)
    assert type(kernels.kernels_for(x, torch.bfloat16)) is Formulas
    del x
    assert alive() is None  # an error that is raised again and again would keep all activations


@pytest.mark.gcc
def test_a_compiler_that_fails_is_quoted(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(
        tmp_path / "bin", 'echo "note" >&2; echo "gcc: error: no room" >&2; exit 1', monkeypatch
    )
    with pytest.raises(NotBuiltError, match=r"^gcc: error: no room$"):
        Build(torch.float32).finish()
    assert not list(fresh.iterdir())


@pytest.mark.gcc
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cache").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotBuiltError, match=r"\.cache/tinygpt"):
        Build(torch.float32).finish()


@pytest.mark.gcc
@pytest.mark.parametrize(
    "march",
    # most tests run on a CPU with AVX2, by kernels that are compiled for it
    ["x86-64", pytest.param("x86-64-v3", marks=pytest.mark.slow)],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these flags are for x86-64")
def test_kernels_for_older_cpus_compute_the_same(march: str) -> None:
    """x86-64-v3 has AVX2; x86-64 has neither, and compiles the plain C that other CPUs get."""
    sources = [path for path in build.SOURCES if path.name in ("fused.c", "attention_float.c")]
    older = Fused(compile_kernels(("-O1", f"-march={march}"), sources), torch.float32)
    exact = Formulas()
    torch.manual_seed(0)
    drop = Dropout(key=5, stream=3, threshold=6554)
    update, x, gain = torch.randn(20, 150), torch.randn(20, 150), torch.randn(150)
    by, wide = Norm(gain, None, 1e-5, rms=True), gain.double()
    total, normed = older.add_and_norm(update, None, x, by, drop)
    given = (update.double(), None, x.double(), by._replace(gain=wide), drop)
    expected, parts = exact.add_and_norm(*given)
    torch.testing.assert_close((total, *normed), tuple(t.float() for t in (expected, *parts)))
    y = older.swiglu_(x.clone(), None, update.clone(), gain)
    exact_y = exact.swiglu_(x.double(), None, update.double(), wide)
    torch.testing.assert_close(y, tuple(t.float() for t in exact_y))
    heads = Heads(2, 3, 1)
    layer = Linear(torch.randn(50, 150) / 12, torch.randn(50))
    y, kept = older.attend(x, layer, heads, None, drop)
    in_double = Linear(layer.weight.double(), layer.bias.double())
    exact_y, exact_kept = exact.attend(x.double(), in_double, heads, None, drop)
    torch.testing.assert_close(y, exact_y.float())
    found = older.attend_backward(y, y, kept, heads, None, drop)[0]
    expected = exact.attend_backward(exact_y, exact_y, exact_kept, heads, None, drop)[0]
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
