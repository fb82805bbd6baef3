"""Writers of tokens: tinygpt's decoder and other projects', and the memory that bounds them.

Each runs in its own process (processes.py), so torch is imported inside functions.  All write
greedily from random weights of the same size, except nanoGPT, whose `generate` can only draw.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.request import ProxyHandler, Request, build_opener

from benchmarks.shapes import Shape
from tinygpt.errors import UserError

if TYPE_CHECKING:
    from benchmarks.processes import Work

READ_BYTES = 1 << 29  # of memory at a time, far more than any cache holds
SQUARE = 1024  # rows and columns of the matrices that are multiplied
LLAMA2C_FLAGS = ("-Ofast", "-fopenmp", "-march=native")  # of its Makefile's runomp
SEED = 1337


@dataclass(frozen=True)
class Task:
    """Write new tokens to each of some sequences, or the first one after a prompt."""

    sequences: int
    prompt: int  # tokens of each sequence's prompt
    new: int  # tokens to write to each

    @property
    def name(self) -> str:
        """The name in the tables."""
        if self.new == 1:
            return f"first token after {self.prompt}"
        return f"{self.sequences} sequence{'s' * (self.sequences > 1)} of {self.new}"


@dataclass(frozen=True)
class Writer:
    """A project and its weights; `tasks` are what its process can be asked to run."""

    project: str  # tinygpt, nanogpt, transformers, llama2.c, llama.cpp or memory
    weights: str  # fp32, bf16 or int8
    shape: Shape
    tasks: tuple[Task, ...] = ()
    source: Path | None = None  # of nanogpt and llama2.c

    @property
    def name(self) -> str:
        """The name in the tables."""
        return f"{self.project} {self.weights}"


def make(writer: Writer, imported: Callable[[], None]) -> Work:
    """Build the work of a writer; called in its own process."""
    makers: dict[str, Callable[[Writer], Work]] = {
        "tinygpt": _TinyGPT,
        "nanogpt": _NanoGPT,
        "transformers": _Transformers,
        "llama2.c": _Llama2C,
        "llama.cpp": _LlamaCpp,
        "memory": _Memory,
    }
    imported()
    return makers[writer.project](writer)


class _Tasks:
    """`run(i)` runs task i once and returns its seconds; a subclass writes the tokens."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def describe(self) -> dict[str, Any]:
        """Bytes of weights that a step reads, and of each number in the cache."""
        return {"weight_bytes": self.writer.shape.n_matmul * 4, "cached_bytes": 4}

    def run(self, task: int) -> float:
        """Seconds of one run of a task."""
        began = time.perf_counter()
        own = self.write(self.writer.tasks[task])
        return time.perf_counter() - began if own is None else own

    def write(self, task: Task) -> float | None:
        """Run the task; returns its seconds if the project times itself."""
        raise NotImplementedError

    def device_peak_mem_bytes(self) -> int | None:
        return None


class _TinyGPT(_Tasks):
    """The decoder and numpy's argmax."""

    def __init__(self, writer: Writer) -> None:
        import torch

        from tinygpt.components.models.gpt import GPTConfig

        super().__init__(writer)
        shape = writer.shape
        torch.manual_seed(SEED)
        config = GPTConfig(n_layer=shape.n_layer, n_head=shape.n_head, d_model=shape.d_model)
        model = config.build(vocab_size=shape.vocab_size, seq_len=shape.seq_len)
        n_slots = max(task.sequences for task in writer.tasks)
        decoder = model.decoder(n_slots, weights=writer.weights)
        if decoder is None:
            raise UserError("there is no decoder in C here: it needs Linux and gcc")
        self.decoder = decoder

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "weight_bytes": getattr(self.decoder, "weight_bytes", None),
            "cached_bytes": 4 if self.writer.weights == "fp32" else 2,
            "threads": torch.get_num_threads(),
        }

    def write(self, task: Task) -> None:
        slots = list(range(task.sequences))
        logits = self.decoder.prefill(0, [0] * task.prompt)
        for slot in slots[1:]:
            self.decoder.copy(0, slot)
        tokens = [int(logits.argmax())] * task.sequences
        for _ in range(task.new - 1):
            tokens = self.decoder.step(slots, tokens).argmax(-1).tolist()


class _NanoGPT(_Tasks):
    """`generate` of the model.py of a checkout, with its sample.py's autocast off: fp32."""

    def __init__(self, writer: Writer) -> None:
        import torch

        super().__init__(writer)
        sys.path.insert(0, str(writer.source))
        from model import GPT, GPTConfig  # type: ignore[import-not-found]  # from the checkout

        shape = writer.shape
        torch.manual_seed(SEED)
        self.model = GPT(
            GPTConfig(
                block_size=shape.seq_len,
                vocab_size=shape.vocab_size,
                n_layer=shape.n_layer,
                n_head=shape.n_head,
                n_embd=shape.d_model,
            )
        ).eval()

    def write(self, task: Task) -> None:
        import torch

        prompt = torch.zeros(task.sequences, task.prompt, dtype=torch.long)
        with torch.no_grad():
            self.model.generate(prompt, task.new)


class _Transformers(_Tasks):
    """`generate` of GPT2LMHeadModel, with its cache."""

    def __init__(self, writer: Writer) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__(writer)
        shape = writer.shape
        torch.manual_seed(SEED)
        config = GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.seq_len,
            n_embd=shape.d_model,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            bos_token_id=None,
            eos_token_id=None,
        )
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[writer.weights]
        model = cast(Any, GPT2LMHeadModel(config))  # its stubs lack types
        self.model = model.eval().to(dtype)

    def describe(self) -> dict[str, Any]:
        size = {"fp32": 4, "bf16": 2}[self.writer.weights]
        return {"weight_bytes": self.writer.shape.n_matmul * size, "cached_bytes": size}

    def write(self, task: Task) -> None:
        import torch

        prompt = torch.zeros(task.sequences, task.prompt, dtype=torch.long)
        self.model.generate(prompt, do_sample=False, max_new_tokens=task.new, use_cache=True)


class _Llama2C(_Tasks):
    """`run` of a checkout, compiled as its Makefile's runomp, on a Llama with as many weights.

    Its time is its own, from the first token to the last, without loading.
    """

    def __init__(self, writer: Writer) -> None:
        import torch

        super().__init__(writer)
        assert writer.source is not None
        self.folder = writer.source / "tinygpt-benchmark"
        self.folder.mkdir(exist_ok=True)
        source = writer.source / "run.c"
        command = ["gcc", *LLAMA2C_FLAGS, str(source), "-lm", "-o", str(self.folder / "run")]
        subprocess.run(command, check=True, capture_output=True)
        _write_llama(self.folder / "model.bin", writer.shape)
        _write_tokenizer(self.folder / "tokenizer.bin", writer.shape.vocab_size)
        self.environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}

    def write(self, task: Task) -> float:
        done = subprocess.run(
            ["./run", "model.bin", "-z", "tokenizer.bin", "-t", "0", "-n", str(task.new + 1)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            check=True,
        )
        rate = re.search(rb"achieved tok/s: ([\d.]+)", done.stderr)
        if rate is None:
            raise RuntimeError(f"run printed no rate: {done.stderr[-200:]!r}")
        return task.new / float(rate[1])


def _write_llama(path: Path, shape: Shape) -> None:
    """Random weights in the layout that run.c maps; the feed-forward layers have 8 C^2 weights."""
    import numpy as np

    c, layers = shape.d_model, shape.n_layer
    d_ff = round(8 * c / 3)
    rng = np.random.default_rng(SEED)
    with path.open("wb") as file:
        sizes = (c, d_ff, layers, shape.n_head, shape.n_head, shape.vocab_size, shape.seq_len)
        file.write(struct.pack("7i", *sizes))
        table = 0.02 * rng.standard_normal((shape.vocab_size, c), np.float32)
        table[1] = 0  # the token that ends a text is never the likeliest
        file.write(table.tobytes())
        for rows, columns in ((1, c), *[(c, c)] * 4, (1, c), (d_ff, c), (c, d_ff), (d_ff, c)):
            for _ in range(layers):
                weights = 0.02 * rng.standard_normal((rows, columns), np.float32)
                file.write((weights if rows > 1 else 1 + weights).tobytes())
        file.write(np.ones(c, np.float32).tobytes())
        file.write(bytes(4 * shape.seq_len * (c // shape.n_head)))


def _write_tokenizer(path: Path, vocab_size: int) -> None:
    pieces = [f"<{i}>".encode() for i in range(vocab_size)]
    with path.open("wb") as file:
        file.write(struct.pack("i", max(map(len, pieces))))
        for piece in pieces:
            file.write(struct.pack("fi", 0.0, len(piece)) + piece)


class _LlamaCpp(_Tasks):
    """llama.cpp's server through xllamacpp, on a Llama with as many weights.

    Its threads wait for work actively; keys and values are in fp16, which is its default.
    """

    def __init__(self, writer: Writer) -> None:
        import torch
        import xllamacpp as library

        super().__init__(writer)
        self.sequences = max(task.sequences for task in writer.tasks)
        with tempfile.TemporaryDirectory(prefix="tinygpt-benchmark-") as folder:
            path = Path(folder) / "model.gguf"
            _write_gguf(path, writer.shape)
            params = library.CommonParams()
            params.model.path = str(path)
            params.n_ctx = writer.shape.seq_len * self.sequences
            params.n_parallel = self.sequences
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
            params.verbosity = -1
            params.fit_params = False
            self.server = library.Server(params)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"cached_bytes": 2}

    def write(self, task: Task) -> None:
        with ThreadPoolExecutor(task.sequences) as pool:
            answers = list(pool.map(lambda _: self._complete(task), range(task.sequences)))
        if any(answer["tokens_predicted"] != task.new for answer in answers):
            raise RuntimeError("llama.cpp wrote another number of tokens")

    def _complete(self, task: Task) -> Any:
        content = {
            "prompt": [0] * task.prompt,
            "n_predict": task.new,
            "temperature": 0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": False,
        }
        request = Request(
            f"{self.server.listening_address}/completion",
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:
            return json.load(answer)


def _write_gguf(path: Path, shape: Shape) -> None:
    """Random weights as in `_write_llama`."""
    import numpy as np

    from tinygpt.interchange.export.gguf import write_file

    c, d_ff, rng = shape.d_model, round(8 * shape.d_model / 3), np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> Any:
        return 0.02 * rng.standard_normal((rows, columns), np.float32)

    sizes = {"q": (c, c), "k": (c, c), "v": (c, c), "output": (c, c)}
    tensors = {"token_embd.weight": matrix(shape.vocab_size, c)}
    for layer in range(shape.n_layer):
        before = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"{before}{norm}.weight"] = np.ones(c, np.float32)
        for name, size in sizes.items():
            tensors[f"{before}attn_{name}.weight"] = matrix(*size)
        for name, size in {"gate": (d_ff, c), "up": (d_ff, c), "down": (c, d_ff)}.items():
            tensors[f"{before}ffn_{name}.weight"] = matrix(*size)
    tensors["output_norm.weight"] = np.ones(c, np.float32)
    of_model: dict[str, Any] = {
        "context_length": shape.seq_len,
        "embedding_length": c,
        "block_count": shape.n_layer,
        "feed_forward_length": d_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": c // shape.n_head,
        "vocab_size": shape.vocab_size,
    }
    of_tokenizer: dict[str, Any] = {
        "model": "llama",
        "tokens": [f"<{i}>" for i in range(shape.vocab_size)],
        "scores": [0.0] * shape.vocab_size,
        "token_type": [3, *[1] * (shape.vocab_size - 1)],  # control, normal
        "bos_token_id": 0,
        "eos_token_id": 0,
        "add_bos_token": False,
        "add_space_prefix": False,
    }
    keys = {f"llama.{name}": value for name, value in of_model.items()}
    keys |= {f"tokenizer.ggml.{name}": value for name, value in of_tokenizer.items()}
    write_file(path, {"general.architecture": "llama", "general.file_type": 0, **keys}, tensors)


class _Memory(_Tasks):
    """How fast all threads read memory (task 0), and multiply matrices with PyTorch (task 1)."""

    def __init__(self, writer: Writer) -> None:
        import torch

        super().__init__(writer)
        self.numbers = torch.zeros(READ_BYTES // 4)
        self.square = torch.full((SQUARE, SQUARE), 1e-3)

    def describe(self) -> dict[str, Any]:
        import torch

        from tinygpt.config import DeviceConfig
        from tinygpt.hardware.runtime import Runtime

        hardware = Runtime(DeviceConfig()).describe()
        del hardware["precision"]
        return hardware | {"torch": torch.__version__}

    def run(self, task: int) -> float:
        """Bytes or FLOP per second: the fastest of some."""
        seconds = []
        for _ in range(8 if task else 3):
            began = time.perf_counter()
            _ = self.square @ self.square if task else self.numbers.sum()
            seconds.append(time.perf_counter() - began)
        return (2 * SQUARE**3 if task else READ_BYTES) / min(seconds)
