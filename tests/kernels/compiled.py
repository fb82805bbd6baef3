"""Kernels compiled with extra flags: emulated instructions, failing allocations, sanitizers."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from tinygpt.kernels import build

HEADERS = Path(__file__).parent
EMULATED_AVX512 = ("-O1", "-Wno-psabi", "-include", str(HEADERS / "avx512.h"))
EMULATED_AMX = ("-include", str(HEADERS / "amx.h"))

KERNELS = build.sources(torch.float32)  # without the decoder, which is a library of its own
(DECODER,) = build.sources(None)


def compile_kernels(
    library: Path, flags: Sequence[str], files: Sequence[Path] = KERNELS
) -> ctypes.CDLL:
    """Kernels as one library at that path; torch's OpenMP library serves it."""
    sources = [str(path) for path in files]
    objects = [library.with_name(f"{Path(source).stem}.o") for source in sources]
    command = ["gcc", *build.FLAGS, "-fopenmp", "-fPIC", *flags, "-c"]
    processes = [
        subprocess.Popen([*command, source, "-o", str(compiled)])
        for source, compiled in zip(sources, objects, strict=True)
    ]
    assert not any(process.wait() for process in processes)
    subprocess.run(["gcc", "-shared", *map(str, objects), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
