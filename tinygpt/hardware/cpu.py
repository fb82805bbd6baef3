"""What this CPU and its C library can do."""

import ctypes
import platform
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # parameters of mallopt in glibc's malloc.h


def name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def multiplies_bf16() -> bool:
    """Whether the CPU has instructions for bf16; without them it is slower than fp32."""
    # torch before 2.11 has no get_capabilities
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step, which asks for the same sizes again.

    By default it returns large blocks to the system, and a page fault for each 4 KiB of the next
    allocation takes a tenth of a step. Other C libraries are left unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if platform.libc_ver()[0] != "glibc" or mallopt is None:
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20)):
        mallopt(parameter, value)
