"""Complete training steps of tinygpt and other projects, and the matrix products that bound them.

Each contestant runs in its own process (processes.py), so torch is imported inside functions. A
step includes everything that the project's loop does for one update: batch, learning rate, forward,
backward, clipping, AdamW. The loss is read every LOG_EVERY steps and at the end of a turn.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.shapes import Shape
from tinygpt.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim import Optimizer

    from benchmarks.processes import Work
    from tinygpt.interfaces import Metrics

LOG_EVERY = 10  # as in nanoGPT's config files
N_TOKENS = 1 << 20  # of random text to draw batches from
DOCUMENT_LENGTHS = 20, 400  # characters, the mean about that of TinyStories in tokens of BPE
SEPARATOR = "\n"
MAX_STEPS = 1_000_000  # the run length for schedules; no benchmark gets that far
EVAL_BYTES = 100_000  # validation text, as much as trainer.eval_bytes reads by default
# first character by UTF-8 length: ASCII, or 4-byte ideographs; no blanks, newlines or surrogates
_FIRST_CHARACTERS = {1: 0x21, 4: 0x20000}
_MOST_ASCII = 94
MODELS = ("gpt2", "llama", "qwen3", "arcee", "modern", "mingru")
OPTIMIZERS = ("adamw", "lion", "muon")
SWITCHES = {"dropout": "model.dropout=0.1", "documents": "dataset.mask_documents=true"}
GROUPED = ("qwen3", "arcee")  # models that have half as many heads of keys and values
_NOT_CHARACTERS = 17  # ids of the char tokenizer that are not characters

# how CPU threads wait for each other, by environment variables that OpenMP reads when it is loaded;
# auto is tinygpt's own choice, spin is what libgomp does by itself, one has nobody to wait for
WAITS = {
    "auto": {},
    "spin": {"GOMP_SPINCOUNT": "300000"},
    "sleep": {"OMP_WAIT_POLICY": "passive"},
    "one": {"OMP_NUM_THREADS": "1"},
}

Imported = Callable[[], None]  # call this after the imports and before building


@dataclass(frozen=True)
class Mode:
    """Precision, and whether the model is compiled."""

    precision: str  # fp32 or bf16; for ours also auto
    compiled: bool | None  # None leaves it to device.compile

    @classmethod
    def parse(cls, text: str, *, auto: bool) -> Mode:
        """Parse `bf16` or `bf16-compiled`, or `auto` if allowed; raises UserError."""
        if auto and text == "auto":
            return cls("auto", None)
        precision, _, rest = text.partition("-")
        if precision not in ("fp32", "bf16") or rest not in ("", "compiled"):
            choices = "auto, " * auto + "fp32, bf16, fp32-compiled, bf16-compiled"
            raise UserError(f"{text} is not a mode; modes are {choices}")
        return cls(precision, bool(rest))

    def __str__(self) -> str:
        return f"{self.precision}{'-compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Variant:
    """An architecture of tinygpt at the width of a shape, its optimizer and switches."""

    model: str = "gpt2"
    optimizer: str = "adamw"
    switches: tuple[str, ...] = ()  # of SWITCHES

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Parse `llama`, `llama+muon` or `gpt2+dropout+documents`; raises UserError."""
        model, *parts = text.split("+")
        optimizers = [part for part in parts if part in OPTIMIZERS]
        switches = tuple(part for part in parts if part in SWITCHES)
        known = len(optimizers) + len(switches) == len(parts) == len(set(parts))
        if model not in MODELS or not known or len(optimizers) > 1:
            raise UserError(
                f"--models {text} is not a model; models are {', '.join(MODELS)}, and behind + "
                f"an optimizer ({', '.join(OPTIMIZERS)}) or a switch ({', '.join(SWITCHES)}); "
                "for example llama+muon or gpt2+dropout"
            )
        return cls(model, optimizers[0] if optimizers else "adamw", switches)

    def __str__(self) -> str:
        optimizer = [] if self.optimizer == "adamw" else [self.optimizer]
        return "+".join([self.model, *optimizer, *self.switches])

    def settings(self, shape: Shape) -> list[str]:
        """Settings for `python -m tinygpt.train`."""
        typed = [
            f"model={self.model}{'' if self.model == 'gpt2' else '_nano'}",
            f"model.n_layer={shape.n_layer}",
            f"model.d_model={shape.d_model}",
            *([] if self.model == "mingru" else [f"model.n_head={shape.n_head}"]),
            f"optimizer={self.optimizer}",
            *(SWITCHES[name] for name in self.switches),
        ]
        if self.model in GROUPED:
            typed.append(f"model.n_kv_head={max(1, shape.n_head // 2)}")
        return typed


@dataclass(frozen=True)
class Contestant:
    """A project and its mode; the contestant's process builds its training step from this."""

    project: str  # tinygpt, nanogpt, transformers or litgpt
    mode: Mode
    shape: Shape
    device: str  # cpu or cuda
    settings: list[str] = field(default_factory=list)  # of tinygpt, as typed
    variant: Variant = field(default_factory=Variant)  # of tinygpt
    tokens: Path | None = None  # for other projects: the prepared tokens, uint16
    checkout: Path | None = None  # of nanogpt
    wait: str = "auto"  # of WAITS

    @property
    def name(self) -> str:
        """The name in the tables."""
        variant = "" if self.variant == Variant() else f"{self.variant} "
        name = f"{self.project} {variant}{self.mode}"
        return name + f", {self.wait}" * (self.wait != "auto")


def make_text(path: Path, *, vocab_size: int) -> None:
    """Write a document of random characters on each line, for a char tokenizer of `vocab_size` ids.

    Raises UserError for an impossible vocabulary size.
    """
    import numpy as np

    n_characters = vocab_size - _NOT_CHARACTERS
    if n_characters < 1 or vocab_size > 1 << 16:
        raise UserError(
            f"a vocabulary of {vocab_size} cannot be measured; use {_NOT_CHARACTERS + 1} to 65536"
        )
    random = np.random.default_rng(0)
    ids = random.integers(n_characters, size=N_TOKENS)
    ids[:n_characters] = np.arange(n_characters)  # each character occurs
    first = _FIRST_CHARACTERS[_bytes_per_token(vocab_size)]
    text = (ids + first).astype("<u4").tobytes().decode("utf-32-le")
    ends = random.integers(*DOCUMENT_LENGTHS, size=N_TOKENS // DOCUMENT_LENGTHS[0]).cumsum()
    cuts = [0, *ends[ends < N_TOKENS].tolist(), N_TOKENS]
    path.write_bytes(SEPARATOR.join(text[i:j] for i, j in pairwise(cuts)).encode())


def _bytes_per_token(vocab_size: int) -> int:
    """UTF-8 bytes per token: 1 as with real characters, or 4, about as with real BPE."""
    return 1 if vocab_size <= _NOT_CHARACTERS + _MOST_ASCII else 4


def settings(
    shape: Shape, text: Path, *, folder: Path, variant: Variant | None = None
) -> list[str]:
    """Settings with which `python -m tinygpt.train` trains this shape on this text."""
    share = EVAL_BYTES / (N_TOKENS * _bytes_per_token(shape.vocab_size))
    return [
        "dataset=text",
        f"dataset.path={text}",
        f"dataset.separator={SEPARATOR!r}",
        f"dataset.validation_fraction={share:.6f}",
        "tokenizer=char",
        *(variant or Variant()).settings(shape),
        f"trainer.seq_len={shape.seq_len}",
        f"trainer.micro_batch_size={shape.sequences}",
        f"trainer.tokens_per_step={shape.tokens_per_step}",
        "callback=[]",
        f"cache_dir={folder / 'cache'}",
        f"output_dir={folder / 'outputs'}",
    ]


def make(contestant: Contestant, imported: Imported) -> Work:
    """Build the work of a contestant; called in its own process."""
    makers: dict[str, Callable[[Contestant, Imported], Work]] = {
        "tinygpt": _TinyGPT,
        "nanogpt": _nanogpt,
        "transformers": _transformers,
        "litgpt": _litgpt,
    }

    def imported_all() -> None:
        _first_step_of_anything(contestant.device)
        imported()

    return makers[contestant.project](contestant, imported_all)


def _first_step_of_anything(device: str) -> None:
    """Trigger torch's lazy loading, so that it does not count as the training's memory."""
    import torch

    model = torch.nn.Linear(64, 64, device=device)
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast(device, torch.bfloat16):
        loss = model(torch.ones(64, 64, device=device)).sum()
    loss.backward()
    optimizer.step()


class _TinyGPT:
    """The real trainer, built as in the command, without evaluations, logging and checkpoints."""

    def __init__(self, contestant: Contestant, imported: Imported) -> None:
        import torch

        from tinygpt.config import compose
        from tinygpt.corpus.prepared import prepare
        from tinygpt.hardware.runtime import Runtime
        from tinygpt.interfaces import Logger
        from tinygpt.training.checkpoint import Checkpoints
        from tinygpt.training.state import TrainState
        from tinygpt.training.trainer import Trainer

        imported()
        mode, shape = contestant.mode, contestant.shape
        typed = [*contestant.settings, f"device={contestant.device}"]
        typed += [f"trainer.max_steps={MAX_STEPS}"]
        typed += ["schedule.warmup_ratio=0"]  # warmup over MAX_STEPS would never end
        if mode.precision != "auto":
            typed += [f"device.precision={mode.precision}"]
        if mode.compiled is not None:
            typed += [f"device.compile={'always' if mode.compiled else 'never'}"]
        cfg = compose.compose("train", typed)
        self.runtime = Runtime(cfg.device)
        prepared = prepare(cfg, print)
        vocab_size = prepared.tokenizer.vocab_size
        assert vocab_size == shape.vocab_size
        torch.manual_seed(cfg.seed)
        model = cfg.model.build(vocab_size=vocab_size, seq_len=cfg.trainer.seq_len)
        # the causal half of attention, as in shapes.py
        attends = contestant.variant.model != "mingru"
        causal = 6 * shape.n_layer * shape.seq_len * shape.d_model * attends
        self.flops_per_token = model.flops_per_token() - causal
        self.runtime.place(model)
        self.state = TrainState(model, cfg.optimizer.build(model), self.runtime.scaler())
        self.trainer = Trainer(
            cfg,
            self.state,
            runtime=self.runtime,
            prepared=prepared,
            logger=Logger(),
            callbacks={},
            checkpoints=Checkpoints(Path(cfg.output_dir), keep=1),
        )

    def describe(self) -> dict[str, Any]:
        import torch

        hardware = self.runtime.describe()
        return {
            "precision": hardware["precision"],
            "kernels": hardware["kernels"],
            "flops_per_token": self.flops_per_token,
            "compile": self.trainer.compile_note,
            "threads": torch.get_num_threads(),
        }

    def run(self, steps: int) -> float:
        row: Metrics = {}
        with self.runtime.adapted_to_load():
            for number in range(1, steps + 1):
                self.trainer.train_step()
                if self.state.step % LOG_EVERY == 0 or number == steps:
                    row = self.trainer.since_last_row()
            _wait_for_device()
        return row["train/loss"]

    def device_peak_mem_bytes(self) -> int | None:
        return _device_peak_mem_bytes()


@dataclass
class _Peer:
    """A model in the loop of nanoGPT's train.py, with the same batches, order and clipping."""

    contestant: Contestant
    forward: Callable[[Tensor, Tensor], Tensor]  # inputs and targets (B, T) to the loss
    model: torch.nn.Module
    optimizer: Optimizer
    n_matmul: int | None = None  # weights of its matrix products, if it is no GPT-2

    def __post_init__(self) -> None:
        import torch

        on_cuda = self.contestant.device == "cuda"
        bf16 = self.contestant.mode.precision == "bf16"
        self.autocast: AbstractContextManager[Any] = (
            torch.autocast(self.contestant.device, torch.bfloat16) if bf16 else nullcontext()
        )
        torch.backends.cuda.matmul.allow_tf32 = on_cuda
        torch.backends.cudnn.allow_tf32 = on_cuda
        self.step = 0
        self.next = self.batch()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random windows of the token file, which is mapped again for each batch as in train.py."""
        import numpy as np
        import torch

        shape, tokens = self.contestant.shape, self.contestant.tokens
        assert tokens is not None
        data = np.memmap(tokens, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - shape.seq_len, (shape.sequences,)).tolist()
        pair = [
            torch.stack(
                [
                    torch.from_numpy(data[i + shift : i + shift + shape.seq_len].astype(np.int64))
                    for i in starts
                ]
            )
            for shift in (0, 1)
        ]
        if self.contestant.device == "cuda":
            pair = [part.pin_memory().to("cuda", non_blocking=True) for part in pair]
        return pair[0], pair[1]

    def describe(self) -> dict[str, Any]:
        import torch

        mode, shape = self.contestant.mode, self.contestant.shape
        described = {
            "precision": mode.precision,
            "compile": "compiled" if mode.compiled else "not compiled",
            "threads": torch.get_num_threads(),
        }
        if self.n_matmul is None:
            return described
        causal = 6 * shape.n_layer * shape.seq_len * shape.d_model
        return described | {"flops_per_token": 6 * self.n_matmul + causal}

    def run(self, steps: int) -> float:
        import torch

        printed = math.nan
        for number in range(1, steps + 1):
            lr = 1e-4 * (1 + math.cos(math.pi * self.step / MAX_STEPS))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.autocast:
                loss = self.forward(*self.next)
            self.next = self.batch()
            loss.backward()  # type: ignore[no-untyped-call]  # in torch
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if self.step % LOG_EVERY == 0 or number == steps:
                printed = loss.item()
        _wait_for_device()
        return printed

    def device_peak_mem_bytes(self) -> int | None:
        return _device_peak_mem_bytes()


def _nanogpt(contestant: Contestant, imported: Imported) -> _Peer:
    """nanoGPT's model.py from a checkout, with its train.py's settings: no biases, no dropout."""
    import torch

    sys.path.insert(0, str(contestant.checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]  # from the checkout

    imported()
    shape = contestant.shape
    torch.manual_seed(1337)
    config = GPTConfig(
        block_size=shape.seq_len,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.d_model,
        dropout=0.0,
        bias=False,
    )
    model = GPT(config).to(contestant.device)
    optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.95), contestant.device)
    call = torch.compile(model) if contestant.mode.compiled else model
    return _Peer(contestant, lambda x, y: call(x, y)[1], model, optimizer)


def _transformers(contestant: Contestant, imported: Imported) -> _Peer:
    """GPT2LMHeadModel, which shifts the labels itself, with fused AdamW as in its Trainer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    imported()
    shape = contestant.shape
    torch.manual_seed(1337)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.seq_len,
        n_embd=shape.d_model,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).to(contestant.device)  # type: ignore[arg-type]  # its stubs
    model.train()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    call = torch.compile(model) if contestant.mode.compiled else model
    return _Peer(contestant, lambda x, y: call(input_ids=x, labels=x).loss, model, optimizer)


def _litgpt(contestant: Contestant, imported: Imported) -> _Peer:
    """litgpt's GPT as Llama, tied as ours, with the loss of its pretrain.py and fused AdamW."""
    import torch
    from litgpt import GPT, Config  # type: ignore[import-not-found]  # not among our dependencies

    from tinygpt.components.models.gpt import GPTConfig

    imported()
    shape = contestant.shape
    torch.manual_seed(1337)
    ours = GPTConfig(d_model=shape.d_model, n_head=shape.n_head, feedforward="swiglu")
    config = Config(
        block_size=shape.seq_len,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.d_model,
        intermediate_size=ours.ff_width,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config).to(contestant.device)
    model.transformer.wte.weight = model.lm_head.weight
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    call = torch.compile(model) if contestant.mode.compiled else model

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(call(x).flatten(0, 1), y.flatten())

    n_matmul = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    return _Peer(contestant, loss, model, optimizer, n_matmul)


@dataclass(frozen=True)
class Matmul:
    """The matrix products of a shape's linear layers by themselves; the fastest is the MFU peak."""

    shape: Shape
    device: str
    seconds: float  # for each product


class MatmulWork:
    """Measures every product; `run(n)` measures each one n times."""

    def __init__(self, spec: Matmul, imported: Imported) -> None:
        import torch

        imported()
        self.spec = spec
        torch.backends.cuda.matmul.allow_tf32 = spec.device == "cuda"

    def describe(self) -> dict[str, Any]:
        import torch

        from tinygpt.config import DeviceConfig
        from tinygpt.hardware.runtime import Runtime

        hardware = Runtime(DeviceConfig(type=self.spec.device)).describe()
        del hardware["precision"]
        return hardware | {"torch": torch.__version__}

    def run(self, steps: int) -> dict[str, float]:
        """FLOP/s of each product in each precision; the best of all measurements."""
        best: dict[str, float] = {}
        for _ in range(steps):
            for precision in ("bf16", "fp32"):
                for rows, k, columns in self.spec.shape.linear_layers:
                    name = f"{precision} {rows}x{k}x{columns}"
                    rate = self._rate(precision, rows, k, columns)
                    best[name] = max(best.get(name, 0.0), rate)
        return best

    def _rate(self, precision: str, rows: int, k: int, columns: int) -> float:
        import torch

        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
        x = torch.randn(rows, k, device=self.spec.device, dtype=dtype)
        weight = torch.randn(columns, k, device=self.spec.device, dtype=dtype)
        out = torch.empty(rows, columns, device=self.spec.device, dtype=dtype)

        def seconds(repeats: int) -> float:
            began = time.perf_counter()
            for _ in range(repeats):
                torch.mm(x, weight.T, out=out)
            _wait_for_device()
            return time.perf_counter() - began

        seconds(1)
        repeats = max(1, math.ceil(self.spec.seconds / 3 / seconds(1)))
        fastest = min(seconds(repeats) for _ in range(3))
        return 2 * rows * k * columns * repeats / fastest

    def device_peak_mem_bytes(self) -> int | None:
        return _device_peak_mem_bytes()


def _wait_for_device() -> None:
    import torch

    if _cuda_in_use():
        torch.cuda.synchronize()


def _device_peak_mem_bytes() -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() if _cuda_in_use() else None


def _cuda_in_use() -> bool:
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # in torch
