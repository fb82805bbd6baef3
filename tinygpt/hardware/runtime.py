"""Runtime: device, precision, compilation and threads.  The only file that names cuda."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from tinygpt import kernels
from tinygpt.config import DeviceConfig
from tinygpt.errors import UserError
from tinygpt.hardware import compiling, cpu, parallel, waiting
from tinygpt.hardware.parallel import MeanGradients
from tinygpt.hardware.ranks import Ranks
from tinygpt.language_model import LanguageModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLACES = {
    "none": "one process",
    "ddp": "{ranks} ranks, each with a copy of the model (DDP)",
    "fsdp": "{ranks} ranks, over which the model is spread (FSDP)",
}
NORM_ELEMENTS = 1 << 16  # largest tensor whose norm a CPU takes at once: the error is at most 4e-7


class Runtime:
    """The device that a config asks for; raises UserError if this machine does not have it.

    With several ranks, each rank makes one after `Ranks.meet`; it joins their process group.
    """

    def __init__(self, cfg: DeviceConfig, ranks: Ranks | None = None) -> None:
        self.cfg = cfg
        self.ranks = ranks or Ranks(alone=True)
        # the main rank chooses for all ranks
        kind = self.ranks.from_main(lambda: _best_device() if cfg.type == "auto" else cfg.type)
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(_missing("cuda", "a CUDA build of torch and a visible NVIDIA GPU"))
        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError(_missing("mps", "an Apple GPU and a torch built for it"))
        self.device = self._own_device(kind)
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.precision = self._precision()
        self._choose_kernels()
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 where fp32 is left
            torch.cuda.reset_peak_memory_stats()  # an earlier run in this process counts otherwise
        if kind == "cpu":
            cpu.keep_freed_memory()
        self.parallel = self._parallel()
        # parts of the model that autograd computes although the device has kernels, and why
        self.without_kernels: list[str] = []
        self.ranks.connect(kind)

    def _own_device(self, kind: str) -> torch.device:
        ranks = self.ranks
        if ranks.size == 1 or kind == "cpu":
            return torch.device(kind)
        if kind == "mps":
            raise UserError(
                f"device=mps is one device, and there are {ranks.size} ranks; type device=cpu, or "
                "start one process, without torchrun"
            )
        if ranks.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {ranks.rank} finds no GPU of its own: torchrun started more than "
                f"{ranks.local_rank} processes on a machine with {torch.cuda.device_count()}; "
                f"type --nproc_per_node={torch.cuda.device_count()}"
            )
        torch.cuda.set_device(ranks.local_rank)
        return torch.device("cuda", ranks.local_rank)

    def _parallel(self) -> str:
        """The requested one of DDP and FSDP; `place` turns auto into FSDP if the model needs it."""
        wanted = self.cfg.parallel
        if self.ranks.size == 1:
            if wanted != "auto":
                raise UserError(
                    f"device.parallel={wanted} is for several processes, and there is one; type "
                    "device.parallel=auto, or start it by\n"
                    "  torchrun --nproc_per_node=2 -m tinygpt.train ..."
                )
            return "none"
        if wanted == "fsdp" and self.precision == "fp16":
            raise UserError(
                "device.precision=fp16 scales the loss, which is not made for "
                "device.parallel=fsdp; type device.precision=bf16, or fp32"
            )
        return "ddp" if wanted == "auto" else wanted

    def _choose_kernels(self) -> None:
        """Choose the kernels and start compiling them in the background."""
        on_cpu = self.device.type == "cpu"
        if self.cfg.kernels == "fused" and not on_cpu:
            raise UserError(
                f"device.kernels=fused is for a CPU, and this is {self.device.type}; type "
                "device.kernels=auto"
            )
        fuses = on_cpu and self.cfg.kernels != "torch"
        kernels.choose(DTYPES[self.precision] if fuses else None)
        if self.cfg.kernels == "fused" and (lack := kernels.lacking()):
            raise UserError(
                f"device.kernels=fused is not possible here: {lack}; type device.kernels=auto"
            )

    def place(self, model: LanguageModel) -> str:
        """Move a model from the CPU to its device or devices, in place; returns a description.

        It also decides what computes the model's blocks: on a CPU, tinygpt's kernels.
        """
        why = ""
        if self.parallel == "ddp" and self.cfg.parallel == "auto" and self._is_too_large(model):
            self.parallel = "fsdp"
            why = ": weights, gradients and the optimizer do not fit one GPU"
        if self.parallel != "fsdp":
            model.to(self.device)
        else:  # from the CPU, so that no GPU ever holds more than one whole block
            parallel.spread(
                model,
                device_type=self.device.type,
                size=self.ranks.size,
                blocks_in_bf16=self._bf16_blocks,
            )
        self._use_kernels(model)
        return _PLACES[self.parallel].format(ranks=self.ranks.size) + why

    def place_alone(self, model: LanguageModel) -> None:
        """Move a model to this rank's device, in place, without the other ranks."""
        model.to(self.device)
        self._use_kernels(model)

    def _use_kernels(self, model: LanguageModel) -> None:
        """Raises UserError for device.kernels=fused where the model would ignore it."""
        self.without_kernels = model.use_kernels(self.device.type == "cpu")
        if type(model).use_kernels is LanguageModel.use_kernels:
            if self.cfg.kernels == "fused":
                raise UserError(
                    "device.kernels=fused would be ignored: this model has no fused kernels; "
                    "use device.kernels=auto"
                )
            kernels.choose(None)

    @property
    def _bf16_blocks(self) -> bool:
        """Whether FSDP gathers blocks in bf16.

        LayerNorm then has weights of another type than its input: CUDA's autocast converts them,
        that of a CPU does not.
        """
        return self.precision == "bf16" and self.device.type == "cuda"

    def _is_too_large(self, model: nn.Module) -> bool:
        """Whether any rank's GPU is too small for the model, its gradients and the optimizer."""
        if self.device.type != "cuda" or self.precision == "fp16":
            return False
        needed = parallel.STATE_BYTES_PER_PARAMETER * sum(p.numel() for p in model.parameters())
        lacking = needed - torch.cuda.get_device_properties(self.device).total_memory
        return self.ranks.most(lacking)[0] > 0

    def mean_gradients(self, model: nn.Module, loss: Callable[[Tensor], Tensor]) -> MeanGradients:
        """The training loss, whose gradients are averaged over all ranks."""
        return MeanGradients(model, loss, copies=self.parallel == "ddp")

    def _precision(self) -> str:
        kind, wanted = self.device.type, self.cfg.precision
        has_bf16 = kind == "cpu" or (
            kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        if wanted == "auto":
            gains = has_bf16 and (kind == "cuda" or cpu.multiplies_bf16())
            wanted = self.ranks.from_main(lambda: "bf16" if gains else "fp32")
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

    @contextmanager
    def model_on_main(self, model: nn.Module) -> Iterator[None]:
        """Context in which the main rank uses the model alone while the others wait."""
        if self.parallel != "fsdp":
            yield
            return
        with parallel.whole_on_main(model), self.autocast() if self._bf16_blocks else nullcontext():
            yield

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context of a forward."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """The loss scaler: active for fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def compile(
        self,
        model: nn.Module,
        *,
        planned_steps: int | None,
        flops: float,
        before: bool | None = None,
    ) -> tuple[nn.Module, str]:
        """Returns the model, compiled if that is wanted and pays off, and the decision in words.

        `planned_steps` is the length of the whole run, None if a clock ends it. `flops` is the work
        of a micro batch, forward and backward. `before` is the decision of a run that is resumed:
        compiling changes the last bits, so it is kept.
        """
        wanted, kind = self.cfg.compile, self.device.type
        reason = compiling.why_not(
            wanted,
            device_type=kind,
            n_ranks=self.ranks.size,
            parallel=self.parallel,
            planned_steps=planned_steps,
            flops=flops,
            before=before,
            fused_products=wanted == "auto" and kernels.multiply() is not None,
        )
        if reason is not None:
            return model, f"device.compile={wanted}{reason}"
        torch._dynamo.config.suppress_errors = True  # a graph that fails to compile runs as it is
        compiled = torch.compile(model)
        return cast(
            nn.Module, compiled
        ), f"device.compile={wanted}: compiled; the first step takes up to a minute"

    def seed(self, seed: int) -> None:
        """Seed the device's random numbers, which dropout uses."""
        if self.device.type == "cpu":  # manual_seed of all devices takes 100 times as long
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        """Clip the norm of all gradients to `limit` (0 disables); returns the norm before clipping.

        A CPU sums in one running fp32 total, which loses small terms: the norm of 80 million
        elements taken at once is 0.8 % too small. The norm of the norms of rows is exact enough.
        """
        parameters = list(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            gradients = [
                gradient
                if gradient.numel() <= NORM_ELEMENTS
                else torch.linalg.vector_norm(gradient, dim=-1)
                for gradient in gradients
            ]
        norm = torch.nn.utils.get_total_norm(gradients)
        whole_norm = parallel.whole(norm)
        # on a GPU, multiplying by one is faster than waiting for the norm
        if limit and not (on_cpu and whole_norm <= limit):
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return whole_norm

    def adapted_to_load(self) -> AbstractContextManager[None]:
        """Context in which a CPU's threads sleep, not spin, while other processes use the cores."""
        return waiting.adapted_to_load() if self.device.type == "cpu" else nullcontext()

    @property
    def works_ahead(self) -> bool:
        """Whether the device works asynchronously while Python continues."""
        return self.device.type == "cuda"

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor in pinned memory, from which the device copies asynchronously."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy on the device, asynchronous where the device allows it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def peak_mem_bytes(self) -> int | None:
        """Peak allocated bytes on any rank's device; None where the device does not report it."""
        if self.device.type != "cuda":
            return None
        return int(self.ranks.most(torch.cuda.max_memory_allocated())[0])

    def describe(self) -> dict[str, Any]:
        """Hardware and precision, for run.json."""
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else cpu.name(),
            "precision": self.precision,
            "kernels": self._kernels_in_words(),
            "threads": torch.get_num_threads(),
            "cpu_count": os.cpu_count(),
            "platform": platform.platform(),
        }

    def _kernels_in_words(self) -> str:
        words = kernels.describe()
        if words.startswith("fused"):  # in torch there is nothing to except
            words += "".join(f", not for {part}" for part in self.without_kernels)
        return words


def host_copies(
    *groups: Mapping[str, Tensor],
) -> tuple[list[dict[str, Tensor]], Callable[[], None]]:
    """Copies of the tensors in main memory, and a function that waits until they are complete.

    A GPU copies in the order of its work, so the next step may be queued without waiting.
    """
    copies = [{name: _host_copy(tensor) for name, tensor in group.items()} for group in groups]
    if not any(tensor.is_cuda for group in groups for tensor in group.values()):
        return copies, lambda: None
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
    done.record()
    return copies, done.synchronize


def _host_copy(tensor: Tensor) -> Tensor:
    tensor = parallel.whole(tensor)
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True)
    # into pageable memory the copy would not be asynchronous
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _missing(kind: str, needs: str) -> str:
    return (
        f"device={kind} is not available: it needs {needs}, and torch {torch.__version__} sees "
        "none; type device=cpu or device=auto"
    )
