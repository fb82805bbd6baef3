"""Kernels compiled with extra flags: emulated instructions, failing allocations, sanitizers."""

import ctypes
import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tinygpt.kernels import build

HEADERS = Path(__file__).parent
EMULATED_AVX512 = ("-O1", "-Wno-psabi", "-include", str(HEADERS / "avx512.h"))
EMULATED_AMX = ("-include", str(HEADERS / "amx.h"))

KERNELS = build.sources(torch.float32)  # without the decoder, which is a library of its own
(DECODER,) = build.sources(None)


def kept(command: Sequence[str | Path]) -> Path:
    """What a command of gcc makes, whose output is added; compiled once, until a file changes."""
    words = [str(word) for word in command]
    read = [*build.SOURCES, *HEADERS.glob("*.[ch]"), *(Path(w) for w in words if w.endswith(".c"))]
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    depends_on = (
        words,
        [path.read_bytes() for path in read],
        [line for line in cpu if line.startswith(("model", "flags", "Features"))][:3],
        subprocess.run([words[0], "--version"], capture_output=True, check=True).stdout,
    )
    key = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:24]
    path = build.CACHE.expanduser() / f"test-{key}.{'o' if '-c' in words else 'so'}"
    if not path.exists():
        with TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run([*words, "-o", str(made)], check=True)
            made.replace(path)
    return path


def compile_kernels(flags: Sequence[str], files: Sequence[Path] = KERNELS) -> ctypes.CDLL:
    """Kernels as one library; torch's OpenMP library serves it."""
    command = ["gcc", *build.FLAGS, "-fopenmp", "-fPIC", *flags, "-c"]
    with ThreadPoolExecutor() as pool:
        objects = [*pool.map(kept, ([*command, path] for path in files))]
    return ctypes.CDLL(str(kept(["gcc", "-shared", *objects])))
