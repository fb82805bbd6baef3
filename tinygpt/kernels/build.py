"""Compiles the kernels for the CPU at hand, once: the library is kept for later runs."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tinygpt.kernels.fused import Fused
from tinygpt.kernels.products import FusedProducts

CACHE = Path("~/.cache/tinygpt/kernels")  # never where a config says: what is in it is run
SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
TYPES = {torch.bfloat16: ["-DBFLOAT16"], torch.float32: []}  # of activations, with what they take
# errno and floating-point traps, which nobody looks at, would keep loops from being vectorized
FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]


class NotBuiltError(Exception):
    """Why there are no fused kernels on this machine."""


class Build:
    """The library for one type of activations: a kept one, or compiled beside what goes on."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._kernels: Fused | None = None
        self._lack: str | None = None  # why there are none; an error would keep its frames alive
        self._compiler: _Compiler | None = None
        gcc = shutil.which("gcc")
        if sys.platform != "linux" or gcc is None:
            self._lack = "fused ones need Linux and gcc"
            return
        try:
            self._library = CACHE.expanduser() / f"{_key(gcc, dtype)}.so"
            if not self._library.is_file():
                self._compiler = _Compiler(gcc, dtype, self._library)
        except OSError as error:
            self._lack = str(error)

    def finish(self) -> Fused:
        """The kernels, when they are compiled; raises NotBuiltError."""
        if self._kernels is None and self._lack is None:
            try:
                if self._compiler is not None:
                    self._compiler.finish()
                library = ctypes.CDLL(str(self._library))
                if self._dtype == torch.bfloat16 and library.multiplies():
                    self._kernels = FusedProducts(library)
                else:
                    self._kernels = Fused(library, self._dtype)
            except (OSError, NotBuiltError) as error:
                self._lack = str(error)
        if self._kernels is None:
            raise NotBuiltError(self._lack)
        return self._kernels


class _Compiler:
    """gcc at work; the library appears under its name when it is whole."""

    def __init__(self, gcc: str, dtype: torch.dtype, library: Path) -> None:
        self._gcc, self._library = gcc, library
        library.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(
            dir=library.parent, prefix="compiling-", ignore_cleanup_errors=True
        )
        self._linked = Path(self._folder.name) / "kernels.so"
        flags = [*FLAGS, *TYPES[dtype], "-fopenmp", "-fPIC"]
        self._processes = [
            subprocess.Popen(
                [gcc, *flags, "-c", str(source)],
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for the run, which saves with these kernels
            )
            for source in SOURCES
            if source.suffix == ".c"
        ]

    def finish(self) -> None:
        """Wait for it; raises NotBuiltError, or OSError of a disk."""
        with self._folder:
            complaint = "".join([process.communicate()[1] for process in self._processes])
            if not any(process.returncode for process in self._processes):
                # not with -fopenmp: torch has loaded its library, and two would fight for cores
                objects = map(str, sorted(self._linked.parent.glob("*.o")))
                command = [self._gcc, "-shared", *objects, "-o", str(self._linked)]
                link = subprocess.run(command, capture_output=True, text=True, check=False)
                complaint = link.stderr
                if link.returncode == 0:
                    self._linked.replace(self._library)
                    return
            errors = [line for line in complaint.splitlines() if "error" in line]
            raise NotBuiltError(errors[0] if errors else complaint.strip() or "gcc failed")


def _key(gcc: str, dtype: torch.dtype) -> str:
    """What a library depends on: source, flags, compiler and CPU."""
    compiler = Path(gcc).stat()
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    lines = [line for line in cpu.splitlines() if line.startswith(("model", "flags", "Features"))]
    parts = (
        *([path.read_bytes() for path in SOURCES], FLAGS, TYPES[dtype], platform.machine(), lines),
        *(Path(gcc).resolve(), compiler.st_size, compiler.st_mtime_ns),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
