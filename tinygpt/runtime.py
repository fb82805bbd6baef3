"""Hardware: device, precision, compilation, threads.  The only file that says cuda."""

import os
import platform
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tinygpt.config import DeviceConfig
from tinygpt.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE_PAYS_AFTER_STEPS = 500  # compiling takes about a minute; shorter runs do not earn it back


class Runtime:
    """The device that a config asks for; raises UserError if this machine does not have it."""

    def __init__(self, cfg: DeviceConfig) -> None:
        self.cfg = cfg
        kind = _best_device() if cfg.type == "auto" else cfg.type
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(_missing("cuda", "a CUDA build of torch and a visible NVIDIA GPU"))
        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError(_missing("mps", "an Apple GPU and a torch built for it"))
        self.device = torch.device(kind)
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.precision = self._precision()
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 where fp32 is left
            torch.cuda.reset_peak_memory_stats()  # of the run before, in the same process

    def _precision(self) -> str:
        kind, wanted = self.device.type, self.cfg.precision
        has_bf16 = kind == "cpu" or (
            kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        if wanted == "auto":
            return "bf16" if kind == "cuda" and has_bf16 else "fp32"
        if wanted == "fp16" and kind != "cuda":
            raise UserError(
                f"device.precision=fp16 is only safe on cuda, where the loss is scaled; "
                f"on {kind} type device.precision={'bf16' if has_bf16 else 'fp32'}"
            )
        if wanted == "bf16" and not has_bf16:
            raise UserError(
                f"device.precision=bf16 is not supported by this {kind} device; "
                "type device.precision=fp32"
            )
        return wanted

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which a forward runs."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss for fp16, and does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def compile(self, model: nn.Module, *, planned_steps: int | None) -> tuple[nn.Module, str]:
        """The model, compiled if that is wanted and pays, and the reason in words."""
        wanted, kind = self.cfg.compile, self.device.type
        if wanted == "never":
            return model, "device.compile=never"
        if wanted == "auto":
            if self.device.type != "cuda":
                return (
                    model,
                    f"device.compile=auto: not compiled, it gains nothing on {kind}",
                )
            if planned_steps is not None and planned_steps < COMPILE_PAYS_AFTER_STEPS:
                return model, f"device.compile=auto: not compiled for {planned_steps} steps"
        if kind == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return model, f"device.compile={wanted}: not compiled, there is no C++ compiler"
        torch._dynamo.config.suppress_errors = True  # a graph that fails to compile runs as it is
        compiled = torch.compile(model)
        return cast(
            nn.Module, compiled
        ), f"device.compile={wanted}: compiled; the first step takes longer"

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy on the device, without waiting for it where the device allows."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def peak_mem_bytes(self) -> int | None:
        """Most device memory allocated so far; None where the device does not say."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def describe(self) -> dict[str, Any]:
        """Hardware and precision, for run.json."""
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if self.device.type == "cuda" else _cpu(),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "cpu_count": os.cpu_count(),
            "platform": platform.platform(),
        }


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _missing(kind: str, needs: str) -> str:
    return (
        f"device={kind} is not available: it needs {needs}, and torch {torch.__version__} sees "
        "none; type device=cpu or device=auto"
    )


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
