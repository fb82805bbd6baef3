"""Compiles the kernels for this CPU once and keeps the libraries for later runs.

A library carries the SHA-256 of its content in its name, KEY-SHA256.so. One that does not match, as
after a full disk or a power cut, is removed and compiled again: loading it would end the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from tinygpt.files import flush, rename_durably
from tinygpt.kernels.fused import Fused
from tinygpt.kernels.products import FusedProducts

CACHE = Path("~/.cache/tinygpt/kernels")  # not a setting: its content is executed
SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
# flags for each type of activations; None is the decoder, which is the same for all of them
TYPES: dict[torch.dtype | None, list[str]] = {
    torch.bfloat16: ["-DBFLOAT16"],
    torch.float32: [],
    None: [],
}
# without errno and floating-point traps, which nothing here reads, more loops are vectorized
FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
BUILD_S = 120.0  # after which gcc is ended; it takes about a second


class NotBuiltError(Exception):
    """Why there are no fused kernels on this machine."""


class Build:
    """The library for one type of activations: a kept one, or one that gcc compiles meanwhile.

    `dtype` None is the library of the decoder.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self._kernels: Fused | None = None
        self._loaded: ctypes.CDLL | None = None
        self._lack: str | None = None  # a text, because an exception would keep its frames alive
        self._compiler: _Compiler | None = None
        gcc = shutil.which("gcc")
        if sys.platform != "linux" or gcc is None:
            self._lack = "fused ones need Linux and gcc"
            return
        try:
            folder, key = _own_folder(), _key(gcc, dtype)
            self._library = _kept(folder, key)
            if self._library is None:
                self._compiler = _Compiler(gcc, dtype, folder, key)
        except (OSError, NotBuiltError) as error:
            self._lack = str(error)

    def finish(self) -> Fused:
        """The kernels, after waiting for gcc; raises NotBuiltError."""
        assert self.dtype is not None
        if self._kernels is None:
            library = self.library()
            if self.dtype == torch.bfloat16 and library.multiplies():
                self._kernels = FusedProducts(library)
            else:
                self._kernels = Fused(library, self.dtype)
        return self._kernels

    def library(self) -> ctypes.CDLL:
        """The library, after waiting for gcc; raises NotBuiltError."""
        if self._loaded is None and self._lack is None:
            try:
                path = self._library or (self._compiler and self._compiler.finish())
                self._loaded = ctypes.CDLL(str(path))
            except (OSError, NotBuiltError) as error:
                self._lack = str(error)
        if self._loaded is None:
            raise NotBuiltError(self._lack)
        return self._loaded


def sources(dtype: torch.dtype | None) -> list[Path]:
    """The C files of the library for this type of activations, or of the decoder."""
    files = [path for path in SOURCES if path.suffix == ".c"]
    return [path for path in files if (path.stem == "decode") == (dtype is None)]


def _own_folder() -> Path:
    """The cache, which only this user can write; raises NotBuiltError or OSError."""
    folder = CACHE.expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise NotBuiltError(f"{folder} belongs to another user, who could change what is executed")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.chmod(0o700)
    return folder


def _kept(folder: Path, key: str) -> Path | None:
    """The intact library with this key, or None; removes damaged ones."""
    found = None
    for path in folder.glob(f"{key}*.so"):
        if _is_intact(path):
            found = path
        else:
            path.unlink(missing_ok=True)
    return found


def _is_intact(path: Path) -> bool:
    """Whether only this user could have written the file, and its content matches its name."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return path.stem.partition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()


class _Compiler:
    """gcc at work: one process for each source, then a link."""

    def __init__(self, gcc: str, dtype: torch.dtype | None, cache: Path, key: str) -> None:
        self._gcc, self._cache, self._key = gcc, cache, key
        self._deadline = time.monotonic() + BUILD_S
        self._folder = tempfile.TemporaryDirectory(
            dir=cache, prefix="compiling-", ignore_cleanup_errors=True
        )
        flags = [*FLAGS, *TYPES[dtype], "-fopenmp", "-fPIC"]
        self._processes = [self._start(*flags, "-c", str(source)) for source in sources(dtype)]

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._gcc, *arguments],
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the run, which saves with these kernels
        )

    def finish(self) -> Path:
        """The library, when it is complete and on the disk; raises NotBuiltError or OSError."""
        with self._folder:
            self._wait(*self._processes)
            # not with -fopenmp: torch has loaded its library, and two would compete for the cores
            objects = [path.name for path in sorted(Path(self._folder.name).glob("*.o"))]
            self._wait(self._start("-shared", *objects, "-o", "kernels.so"))
            return _keep(Path(self._folder.name) / "kernels.so", self._cache, self._key)

    def _wait(self, *processes: subprocess.Popen[str]) -> None:
        try:
            complaints = [
                process.communicate(timeout=max(0.0, self._deadline - time.monotonic()))[1]
                for process in processes
            ]
        except subprocess.TimeoutExpired:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            raise NotBuiltError(f"gcc did not finish within {BUILD_S:g} s") from None
        if any(process.returncode for process in processes):
            complaint = "".join(complaints)
            errors = [line for line in complaint.splitlines() if "error" in line]
            raise NotBuiltError(errors[0] if errors else complaint.strip() or "gcc failed")


def _keep(library: Path, cache: Path, key: str) -> Path:
    """Move a new library into the cache; after a power cut it is there whole or not at all."""
    kept = cache / f"{key}-{hashlib.sha256(library.read_bytes()).hexdigest()}.so"
    library.chmod(0o700)
    flush(library)
    rename_durably(library, kept)
    return kept


def source_hash() -> str:
    """A hash of the kernels' source, which changes when they may compute something else."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]


def _key(gcc: str, dtype: torch.dtype | None) -> str:
    """A hash of all that a library depends on: source, flags, compiler and CPU."""
    compiler = Path(gcc).stat()
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    lines = [line for line in cpu.splitlines() if line.startswith(("model", "flags", "Features"))]
    parts = (
        *([path.read_bytes() for path in SOURCES], FLAGS, TYPES[dtype], platform.machine(), lines),
        [path.name for path in sources(dtype)],
        *(Path(gcc).resolve(), compiler.st_size, compiler.st_mtime_ns),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
