"""The requested device, or an error that says why it is not available."""

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests import processes
from tinygpt import kernels
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.config import DeviceConfig
from tinygpt.errors import UserError
from tinygpt.hardware.compiling import PAYS_AFTER_STEPS, PAYS_BELOW_FLOPS, why_not
from tinygpt.hardware.runtime import Runtime
from tinygpt.kernels import Formulas
from tinygpt.kernels.fused import Fused
from tinygpt.language_model import LanguageModel


@pytest.fixture(autouse=True)
def same_threads_again() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    kernels.choose(None)


def cpu(**fields: object) -> Runtime:
    return Runtime(DeviceConfig(type="cpu", **fields))  # type: ignore[arg-type]


def refused(**fields: str) -> str:
    with pytest.raises(UserError) as error:
        Runtime(DeviceConfig(**fields))  # type: ignore[arg-type]
    return str(error.value)


# Kernels


@pytest.mark.gcc
def test_fused_kernels_are_used_on_a_cpu_unless_torchs_are_wanted() -> None:
    assert cpu(precision="fp32").describe()["kernels"] == "fused"
    assert type(kernels.kernels_for(torch.ones(1), torch.float32)) is Fused
    assert cpu(precision="fp32", kernels="torch").describe()["kernels"] == "torch"
    assert type(kernels.kernels_for(torch.ones(1), torch.float32)) is Formulas


def test_fused_kernels_that_cannot_be_built_are_refused_if_they_are_insisted_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(type="cpu", kernels="fused") == (
        "device.kernels=fused is not possible here: fused ones need Linux and gcc; "
        "type device.kernels=auto"
    )
    assert cpu().describe()["kernels"].startswith("torch (fused ones need")


def test_fused_kernels_are_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert refused(type="mps", kernels="fused") == (
        "device.kernels=fused is for a CPU, and this is mps; type device.kernels=auto"
    )


class Plain(LanguageModel):
    """A model that uses no kernels."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 5)


@pytest.mark.gcc
def test_kernels_are_claimed_for_what_uses_them_and_for_nothing_else() -> None:
    runtime = cpu(precision="fp32")
    runtime.place(Plain())
    assert runtime.describe()["kernels"] == "torch"
    with pytest.raises(UserError) as error:
        cpu(precision="fp32", kernels="fused").place(Plain())
    assert str(error.value) == (
        "device.kernels=fused would be ignored: this model has no fused kernels; "
        "use device.kernels=auto"
    )
    runtime = cpu(precision="fp32", kernels="fused")
    runtime.place(GPTConfig(n_layer=1, n_head=1, d_model=8).build(vocab_size=5, seq_len=4))
    assert runtime.describe()["kernels"] == "fused"
    without = GPTConfig(n_layer=1, n_head=1, d_model=8, feedforward="gelu_erf")
    runtime.place(without.build(vocab_size=5, seq_len=4))
    said = "fused, not for blocks (model.feedforward=gelu_erf)"
    assert runtime.describe()["kernels"] == said


# Devices


def test_a_device_that_is_not_here_is_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = refused(type="cuda")
    assert message.startswith("device=cuda is not available: it needs a CUDA build of torch")
    assert message.endswith(f"torch {torch.__version__} sees none; type device=cpu or device=auto")
    assert refused(type="mps").startswith("device=mps is not available: it needs an Apple GPU")
    assert Runtime(DeviceConfig(type="auto")).device == torch.device("cpu")


def test_the_cpu_is_taken_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there, and not wanted
    runtime = cpu()
    assert runtime.device.type == "cpu"
    assert runtime.peak_mem_bytes() is None


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "fp32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(
    capabilities: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu().precision == precision
    assert cpu(precision="fp32").precision == "fp32"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_a_step_frees_is_there_for_the_next_without_page_faults() -> None:
    script = (
        "import resource, torch; from tinygpt.config import DeviceConfig\n"
        "from tinygpt.hardware.runtime import Runtime\n"
        "Runtime(DeviceConfig(type='cpu'))\n"
        "for _ in range(5):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    blocks = [torch.ones(50_000_000 // 4) for _ in range(4)]; del blocks\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = processes.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000  # 200 MB in pages of 4 KiB would be 49,000


def test_tensors_go_to_the_device_with_their_values() -> None:
    tokens = torch.arange(6).view(2, 3)
    moved = cpu().to_device(tokens)
    assert moved.device.type == "cpu"
    assert torch.equal(moved, tokens)


# Precision


def test_half_precision_is_for_devices_that_scale_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(type="cpu", precision="fp16") == (
        "device.precision=fp16 is only safe on cuda, where the loss is scaled; "
        "on cpu type device.precision=bf16"
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert refused(type="mps", precision="fp16").endswith("on mps type device.precision=fp32")
    assert refused(type="mps", precision="bf16") == (
        "device.precision=bf16 is not supported by this mps device; type device.precision=fp32"
    )
    assert Runtime(DeviceConfig(type="mps")).precision == "fp32"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_a_forward_runs_in_the_precision_and_weights_stay_full(
    precision: str, dtype: torch.dtype
) -> None:
    layer = nn.Linear(4, 4)
    runtime = cpu(precision=precision)
    with runtime.autocast():
        y = layer(torch.ones(2, 4))
    assert y.dtype == dtype
    assert layer(torch.ones(2, 4)).dtype == torch.float32  # not outside
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == layer.weight.dtype == torch.float32


def test_the_loss_is_not_scaled_where_it_need_not_be() -> None:
    scaler = cpu(precision="bf16").scaler()
    assert not scaler.is_enabled()
    assert scaler.scale(torch.tensor(3.0)).item() == 3.0
    assert scaler.state_dict() == {}


# Compilation


def test_each_reason_not_to_compile_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)

    def note(**fields: str) -> str:
        runtime = cpu(precision="fp32", **fields)
        same, words = runtime.compile(model, planned_steps=None, flops=1e10)
        assert same is model
        return words

    assert note(compile="never") == "device.compile=never"
    assert note(compile="auto").startswith("device.compile=auto: not compiled, matrices this large")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert note(compile="always") == (
        "device.compile=always: not compiled, there is no C++ compiler"
    )


@pytest.mark.parametrize(
    ("fused_products", "reason"),
    [(True, ": not compiled, the fused kernels are quicker"), (False, None)],
)
def test_a_long_run_is_not_compiled_where_kernels_multiply(
    fused_products: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert reason == why_not(
        "auto",
        device_type="cpu",
        n_ranks=1,
        parallel="none",
        planned_steps=PAYS_AFTER_STEPS["cpu"],
        flops=PAYS_BELOW_FLOPS,
        before=None,
        fused_products=fused_products,
    )


def test_compiling_is_for_runs_that_are_long_enough_to_gain_from_it() -> None:
    model = nn.Linear(2, 2)
    runtime = cpu()
    runtime.device = SimpleNamespace(type="cuda")  # type: ignore[assignment]

    def compiled(steps: int | None) -> tuple[bool, str]:
        result, words = runtime.compile(model, planned_steps=steps, flops=1e10)  # no GPU is touched
        return result is not model, words

    enough = PAYS_AFTER_STEPS["cuda"]
    few = enough - 1
    assert compiled(few) == (False, f"device.compile=auto: not compiled for {few} steps")
    said = "device.compile=auto: compiled; the first step takes up to a minute"
    assert compiled(enough) == compiled(None) == (True, said)


def test_on_a_cpu_long_runs_of_small_steps_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    model = nn.Linear(2, 2)

    def note(steps: int | None, flops: float, before: bool | None = None) -> str:
        runtime = cpu(compile="auto", precision="fp32")  # whose products are torch's everywhere
        result, words = runtime.compile(model, planned_steps=steps, flops=flops, before=before)
        assert (result is model) == ("not compiled" in words)
        return words.removeprefix("device.compile=auto: ")

    assert note(20_000, 7e9).startswith("compiled")
    assert note(19_999, 7e9) == "not compiled for 19,999 steps"
    assert note(None, 7e9) == "not compiled for a run by the clock"
    assert note(20_000, 9e9) == "not compiled, matrices this large gain nothing"
    assert note(20_000, 7e9, before=False) == "not compiled, as before"
    assert note(10, 9e9, before=True).startswith("compiled")


def test_a_compiled_model_shares_its_weights_with_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    model = nn.Linear(2, 2)
    compiled, words = cpu(compile="always").compile(model, planned_steps=1, flops=1e10)
    assert words == "device.compile=always: compiled; the first step takes up to a minute"
    assert compiled is not model
    assert [id(p) for p in compiled.parameters()] == [id(p) for p in model.parameters()]
    assert set(model.state_dict()) == {"weight", "bias"}  # no prefix in checkpoints


# What is recorded


def test_threads_are_those_that_are_asked_for_and_all_of_it_is_recorded() -> None:
    hardware = cpu(threads=2, precision="bf16").describe()
    assert torch.get_num_threads() == hardware["threads"] == 2
    assert (hardware["device"], hardware["precision"]) == ("cpu", "bf16")
    assert hardware["device_name"]
    assert hardware["cpu_count"] >= 1
    cpu(threads=1)
    assert torch.get_num_threads() == 1
    cpu()
    assert torch.get_num_threads() == 1  # null leaves it as it is


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_gpu_runs_in_each_precision_and_scales_the_loss_for_fp16(
    precision: str, dtype: torch.dtype
) -> None:
    runtime = Runtime(DeviceConfig(type="cuda", precision=precision))
    x = runtime.to_device(torch.ones(2, 4))
    with runtime.autocast():
        assert nn.Linear(4, 4, device=runtime.device)(x).dtype == dtype
    assert runtime.scaler().is_enabled() == (precision == "fp16")


@pytest.mark.gpu
def test_the_peak_of_memory_is_that_of_this_run() -> None:
    first = Runtime(DeviceConfig(type="cuda"))
    large = torch.empty(1 << 26, dtype=torch.uint8, device=first.device)
    assert (first.peak_mem_bytes() or 0) >= 1 << 26
    del large
    assert (Runtime(DeviceConfig(type="cuda")).peak_mem_bytes() or 0) < 1 << 26
