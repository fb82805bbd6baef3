"""Several processes train as one: the same curve, one folder, and no end that loses a run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import processes
from tinygpt import train
from tinygpt.hardware.ranks import RankLost, Ranks

pytestmark = pytest.mark.timeout(300)  # for the first test, whose fixture makes all runs on ranks

# Each argument is a run: its number of ranks, then its settings.  Ranks are forked with the
# environment that torchrun would give them, and meet in a store that the process itself hosts, as
# torchrun's does: a port chosen before it is used may be taken by then.  After a number with "!"
# rank 1 kills itself as soon as there is a checkpoint.
RANKS = """
import os, pathlib, signal, sys, threading, time
import torch._dynamo, torch.distributed.fsdp  # which DDP and FSDP import in every rank
from torch.distributed import TCPStore
from tinygpt import train
from tinygpt.training import trial

trial.BRIEFLY = 0.001  # which micro batch is the fastest does not matter here

def die(outputs):
    while not list(pathlib.Path(outputs).glob("*/checkpoints/step-*")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

def rank_of(size, rank, port, dies, settings):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                   "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if dies and rank == 1:
        (outputs,) = (s.partition("=")[2] for s in settings if s.startswith("output_dir="))
        threading.Thread(target=die, args=(outputs,), daemon=True).start()
    try:
        train.main(settings)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)

for text in sys.argv[1:]:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    size, *settings = text.split("|")
    dies, size = size.endswith("!"), int(size.rstrip("!"))
    children = []
    for rank in range(size):
        children.append(os.fork())
        if children[-1] == 0:
            rank_of(size, rank, store.port, dies, settings)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print("exit codes", codes, flush=True)
"""
# Rank 0 kills itself as soon as there is a checkpoint.
DYING = """
import os, pathlib, signal, sys, threading, time
from tinygpt import train

def die():
    while not list(pathlib.Path(sys.argv[1]).glob("*/checkpoints/step-*")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "0":
    threading.Thread(target=die, daemon=True).start()
train.main(sys.argv[2:])
"""


def on_ranks(*runs: tuple[int | str, list[str]]) -> str:
    """Make runs one after another, each on so many ranks; what all of them printed.

    After "2!" ranks the second one dies.
    """
    texts = ["|".join([str(size), *settings]) for size, settings in runs]
    command = [sys.executable, "-c", RANKS, *texts]
    options = {"capture_output": True, "text": True, "timeout": 250}
    done = processes.run(command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alone(settings: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == 0


def torchrun(*arguments: str, size: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={size}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def only_run(outputs: Path) -> Path:
    (record,) = outputs.glob("*/run.json")
    return record.parent


def record(outputs: Path) -> dict:
    return json.loads((only_run(outputs) / "run.json").read_text())


def rows(outputs: Path) -> list[dict[str, float]]:
    lines = (only_run(outputs) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tensors(outputs: Path) -> dict:
    newest = max((only_run(outputs) / "checkpoints").glob("step-*"))
    files = sorted(newest.glob("*.safetensors"))
    return {f"{file.stem}/{key}": value for file in files for key, value in load_file(file).items()}


def assert_same(ours: Path, reference: Path, *, but_for_evaluations: bool = False) -> None:
    """The same rows and the same checkpoint, but for the order in which numbers were added.

    A run that ended sooner was evaluated then, which the other one need not have been.
    """
    pairs = list(zip(rows(ours), rows(reference), strict=True))
    assert pairs
    for a, b in pairs:
        assert but_for_evaluations or a.keys() == b.keys()
        if a["step"] > 0:  # trained weights are evaluated before the first step
            for name in ("tokens", "train/loss", "optim/grad_norm", "optim/lr"):
                assert a[name] == pytest.approx(b[name], rel=2e-5), (a["step"], name)
            assert a["optim/grad_norm"] > 0.05
        assert a["step"] == b["step"]
        if "val/bpb" in a and "val/bpb" in b:
            assert a["val/bpb"] == pytest.approx(b["val/bpb"], rel=1e-5), a["step"]
        if "val/bpb_ema" in a and "val/bpb_ema" in b:
            assert a["val/bpb_ema"] == pytest.approx(b["val/bpb_ema"], rel=1e-5), a["step"]
    saved, expected = tensors(ours), tensors(reference)
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        assert saved[name].shape == tensor.shape
        difference = (saved[name] - tensor).abs().max()
        if "/exp_avg" in name:  # gradients as they were clipped, to which AdamW's steps are blind
            assert difference <= 1e-3 * tensor.abs().max(), name
        else:  # AdamW divides by the square root of tiny second moments: weights differ the most
            assert difference < 2e-4, name


@pytest.fixture(scope="module")
def settings(text_file, tmp_path_factory) -> list[str]:
    """Micro steps on each rank, and an evaluation whose batches do not come out even."""
    return [
        "dataset=text",
        f"dataset.path={text_file}",
        "dataset.separator='\\n\\n'",
        "tokenizer=char",
        "optimizer=adamw",
        "model=nano",
        "model.n_layer=2",
        "model.d_model=16",
        "model.n_head=2",
        "schedule=constant",
        "schedule.warmup_ratio=0",
        "device=cpu",
        "device.precision=fp32",
        "trainer.seq_len=16",
        "trainer.micro_batch_size=2",
        "trainer.tokens_per_step=128",
        "trainer.log_every=1",
        "trainer.grad_clip=0.05",  # every step is clipped, by the norm of all ranks' gradients
        "trainer.keep_checkpoints=5",
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
    ]


@pytest.fixture(scope="module")
def short(settings) -> list[str]:
    """A run of ten steps that looks, samples and saves on its way."""
    return [
        *settings,
        "trainer.max_steps=10",
        "trainer.eval_every=4",
        "trainer.save_every=6",
        "callback=[sample,early_stop]",
        "callback.sample.max_new_tokens=4",
    ]


MUON_EMA = (
    *("trainer.ema=0.8", "optimizer=muon", "optimizer.momentum_warmup=2"),
    "trainer.first_tokens_per_step=32",  # one sequence on each of two ranks
)


def with_steps(settings: list[str], n_steps: int) -> list[str]:
    kept = [text for text in settings if not text.startswith("trainer.max_steps")]
    return [*kept, f"trainer.max_steps={n_steps}"]


MICRO_BATCHES = {3: "1", 4: "auto", 5: "4"}  # with which each step is resumed


def adapted(settings: list[str], outputs: Path) -> list[str]:
    """Settings that train a few weights beside those of the run `source`, which begin them."""
    text = [text for text in settings if not text.startswith("model")]
    begin = [f"init_from={only_run(outputs / 'source')}", "trainer.max_steps=3"]
    return [*text, *begin, "callback=[sample]", "trainer.lora_rank=2"]


def dying(settings: list[str]) -> list[str]:
    return [*settings, "trainer.eval_every=1000", "trainer.save_every=2", "callback=[]"]


def other_micro_batches(settings: list[str]) -> list[str]:
    return [*settings, "trainer.eval_every=100", "callback=[]", "device.kernels=torch"]


@pytest.fixture(scope="module")
def runs(settings, short, tmp_path_factory) -> tuple[Path, str]:
    """Where runs on two ranks are, each in the folder of its name, and all that they printed.

    One process makes them all, because it takes long to import what ranks need.
    """
    outputs = tmp_path_factory.mktemp("outputs")
    six = with_steps(short, 6)
    printed = on_ranks(
        (2, [*six, f"output_dir={outputs / 'copied'}"]),
        (2, [*six, f"output_dir={outputs / 'spread'}", "device.parallel=fsdp"]),
        (2, ["resume=latest", f"output_dir={outputs / 'copied'}", "trainer.max_steps=10"]),
        (2, [*short, "optimizer.lr=1e30", f"output_dir={outputs / 'diverged'}"]),
        (2, [*short, *MUON_EMA, "device.parallel=fsdp", f"output_dir={outputs / 'fsdp'}"]),
        ("2!", [*dying(settings), "trainer.max_steps=5000", f"output_dir={outputs / 'broken'}"]),
    )
    return outputs, printed


def test_one_rank_has_the_voice_and_the_folder(runs):
    outputs, printed = runs
    assert printed.count("2 ranks, each with a copy of the model (DDP)") == 4
    assert printed.count("2 ranks, over which the model is spread (FSDP)") == 2
    assert "Warning" not in printed
    assert printed.count("everything is in") == 4
    for name, parallel in (("copied", "ddp"), ("spread", "fsdp")):
        derived = record(outputs / name)["derived"]
        assert (derived["world_size"], derived["parallel"]) == (2, parallel)
        assert derived["grad_accum"] == 2
        assert (only_run(outputs / name) / "loss.png").exists()


def test_a_run_is_the_same_on_one_rank_and_two_and_goes_on_on_any(runs, short, tmp_path):
    """Copied and spread models train as one alone does, and save what any number goes on from."""
    outputs, printed = runs
    assert printed.count("exit codes [0, 0]") == 4, printed
    alone([*short, f"output_dir={tmp_path}"])
    spread = f"output_dir={outputs / 'spread'}"
    alone(["resume=latest", spread, "trainer.max_steps=10", "device.parallel=auto"])
    assert record(outputs / "spread")["derived"]["world_size"] == 1
    for name in ("copied", "spread"):
        assert_same(outputs / name, tmp_path, but_for_evaluations=True)
        written, expected = (
            (only_run(path) / "samples" / "step-00000004.txt").read_text()
            for path in (outputs / name, tmp_path)
        )
        assert written == expected


def test_muon_and_averages_are_the_same_on_one_rank_and_two(runs, short, tmp_path):
    alone([*short, *MUON_EMA, f"output_dir={tmp_path}"])
    assert any(name.startswith("ema/") for name in tensors(tmp_path))
    assert {b["tokens"] - a["tokens"] for a, b in pairwise(rows(tmp_path))} == {32, 64, 128}
    assert_same(runs[0] / "fsdp", tmp_path)


@pytest.mark.slow
def test_muon_and_averages_are_the_same_on_one_rank_and_on_two_copies(short, tmp_path):
    alone([*short, *MUON_EMA, f"output_dir={tmp_path / 'one'}"])
    on_ranks((2, [*short, *MUON_EMA, "device.parallel=ddp", f"output_dir={tmp_path / 'two'}"]))
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_freezing_and_adapters_are_the_same_on_one_rank_and_two(settings, tmp_path):
    alone([*with_steps(settings, 3), f"output_dir={tmp_path / 'source'}"])
    lora = adapted(settings, tmp_path)
    freeze = ["trainer.freeze=[token_embedding,'blocks.0.*']"]
    kinds = {"frozen": [*lora[:-1], *freeze], "lora": lora}
    pairs = tuple((kind, parallel) for kind in kinds for parallel in ("ddp", "fsdp"))
    printed = on_ranks(
        *(
            (2, [*kinds[kind], f"device.parallel={p}", f"output_dir={tmp_path / f'{kind}_{p}'}"])
            for kind, p in pairs
        )
    )
    assert printed.count("exit codes [0, 0]") == len(pairs), printed
    for kind, typed in kinds.items():
        alone([*typed, f"output_dir={tmp_path / kind}"])
    for kind, parallel in pairs:
        assert_same(tmp_path / f"{kind}_{parallel}", tmp_path / kind)
    source = only_run(tmp_path / "source")
    assert record(tmp_path / "lora_fsdp")["init_from"]["path"] == str(source)
    before = load_file(max((source / "checkpoints").glob("step-*")) / "model.safetensors")
    for parallel in ("ddp", "fsdp"):
        for name, same in (("token_embedding.weight", True), ("blocks.1.mlp.up.weight", False)):
            after = tensors(tmp_path / f"frozen_{parallel}")[f"model/{name}"]
            assert torch.equal(after, before[name]) is same


def test_ranks_end_together_when_the_loss_is_not_finite(runs):
    outputs, printed = runs
    assert "exit codes [1, 1]" in printed
    assert record(outputs / "diverged")["status"] == "failed"
    assert "the loss is not finite at step" in record(outputs / "diverged")["error"]
    assert printed.count("error: the loss") == 1


@pytest.mark.slow  # as the end above, which each rank finds out for itself too
def test_ranks_end_together_by_the_clock(settings, tmp_path):
    printed = on_ranks((2, [*settings, "trainer.max_time=0.3s", f"output_dir={tmp_path}"]))
    assert "exit codes [0, 0]" in printed
    assert record(tmp_path)["status"] == "finished"


def test_a_rank_that_dies_ends_the_run_with_words_and_it_goes_on(runs, settings, tmp_path):
    straight = tmp_path / "straight"
    many, (outputs, printed) = dying(settings), runs
    broken = outputs / "broken"
    assert f"exit codes [1, {-signal.SIGKILL}]" in printed
    path = only_run(broken)
    assert "error: rank 1 of 2 (process " in printed
    assert f"go on with\n  torchrun ... -m tinygpt.train resume={path}" in printed
    assert record(broken)["status"] == "failed"
    assert record(broken)["error"].startswith("rank 1 of 2 (process ")
    reached = max(int(p.name.removeprefix("step-")) for p in path.glob("checkpoints/step-*"))
    end = f"trainer.max_steps={reached + 3}"
    alone([f"resume={path}", end])
    alone([*many, f"output_dir={straight}", end])
    assert_same(broken, straight)


@pytest.mark.slow
def test_a_resume_on_two_ranks_may_change_the_micro_batch(settings, tmp_path):
    """Smaller, larger, auto for a number and a number for auto: the same steps up to rounding.

    tests/training/test_run_start.py does this on one rank.
    """
    changed = tmp_path / "changed"
    outputs = f"output_dir={changed}"
    resumed = (
        ["resume=latest", outputs, f"trainer.max_steps={step}", f"trainer.micro_batch_size={size}"]
        for step, size in MICRO_BATCHES.items()
    )
    begin = [*other_micro_batches(settings), "trainer.max_steps=2", outputs]
    printed = on_ranks((2, begin), *((2, typed) for typed in resumed))
    assert printed.count("exit codes [0, 0]") == 4, printed
    tmp_path /= "alone"
    alone([*other_micro_batches(settings), "trainer.max_steps=5", f"output_dir={tmp_path}"])
    derived = record(changed)["derived"]
    assert (derived["micro_batch_size"], derived["grad_accum"]) == (4, 1)
    assert_same(changed, tmp_path, but_for_evaluations=True)


# One of two ranks, without the other


@pytest.fixture
def first_of_two(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as exit_info:
        train.main(arguments)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("first_of_two")
def test_a_step_is_made_of_whole_forwards_on_all_ranks(tiny, tmp_path, capsys):
    wanted = [text for text in tiny if not text.startswith("trainer.micro")]
    said = refused([*wanted, "trainer.micro_batch_size=4"], capsys)
    assert said == (
        "error: trainer.tokens_per_step=64 is not a multiple of micro_batch_size * seq_len * ranks "
        "= 4 * 16 * 2 = 128; nearest is 128; trainer.micro_batch_size=2 changes nothing else\n"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("first_of_two")
def test_a_port_that_is_taken_is_an_error_in_one_line(monkeypatch, tmp_path, tiny, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        said = refused([*tiny, "trainer.micro_batch_size=1"], capsys)
    assert said == (
        f"error: the 2 ranks cannot meet at MASTER_ADDR=127.0.0.1 MASTER_PORT={port}: address "
        "already in use; start them with torchrun --standalone, which finds a free port, or set "
        "another MASTER_PORT\n"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("first_of_two")
def test_what_several_ranks_cannot_do_is_refused_with_what_to_type(tiny, monkeypatch, capsys):
    assert "do torchrun ... -m tinygpt.train seed=$s; done" in refused(["-m", *tiny], capsys)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "continue with resume=latest" in refused(tiny, capsys)


def test_one_process_is_told_that_ddp_and_fsdp_are_for_several(tiny, capsys):
    said = refused([*tiny, "device.parallel=fsdp"], capsys)
    assert said.startswith("error: device.parallel=fsdp is for several processes, and there is one")
    assert "torchrun --nproc_per_node=2 -m tinygpt.train" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of such a process")
def test_a_rank_is_dead_before_anybody_has_asked_for_its_exit_code():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    ranks = Ranks(alone=True)
    ranks.size, ranks._processes = 2, {1: (socket.gethostname(), dead.pid)}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (
            pytest.raises(RankLost, match=rf"rank 1 of 2 \(process {dead.pid}\) has died"),
            ranks.watched(),
        ):
            raise RuntimeError("gloo: connection closed by peer")
    finally:
        signal.signal(signal.SIGTERM, before)  # a rank that ends ignores it, and would here too
        dead.wait()


def test_every_item_is_shared_out_once_and_all_ranks_get_as_many():
    ranks = [Ranks(alone=True) for _ in range(3)]
    for number, rank in enumerate(ranks):
        rank.rank, rank.size = number, 3
    turns = zip(*(rank.share(range(7)) for rank in ranks), strict=True)
    assert [item for turn in turns for item, counts in turn if counts] == [*range(7)]


# More ranks, precisions and ends


@pytest.mark.slow
def test_four_ranks_save_what_two_go_on_from(short, tmp_path):
    six = [*with_steps(short, 6), "trainer.micro_batch_size=1"]
    straight, copied, spread = (tmp_path / name for name in ("straight", "copied", "spread"))
    alone([*short, f"output_dir={straight}"])
    ten, fsdp = "trainer.max_steps=10", "device.parallel=fsdp"
    on_ranks(
        (4, [*six, f"output_dir={copied}"]),
        (4, [*six, f"output_dir={spread}", fsdp]),
        (2, ["resume=latest", f"output_dir={spread}", "trainer.max_steps=8"]),
        (2, ["resume=latest", f"output_dir={copied}", "trainer.max_steps=8"]),
        (4, ["resume=latest", f"output_dir={spread}", ten, "device.parallel=ddp"]),
        (4, ["resume=latest", f"output_dir={copied}", ten, fsdp]),
    )
    for outputs in (copied, spread):
        assert_same(outputs, straight, but_for_evaluations=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_spread_gpt2_xl_trains_as_copies_do_and_nothing_is_warned_of(settings, tmp_path):
    """Six of its 48 layers, all of its width."""
    kept = [text for text in settings if not text.startswith("model")]
    large = [*kept, "model=gpt2_xl", "model.n_layer=6", "trainer.max_steps=2"]
    large.append("trainer.eval_bytes=100")  # each batch of it gathers the whole model
    for parallel in ("ddp", "fsdp"):
        typed = [*large, f"device.parallel={parallel}", f"output_dir={tmp_path / parallel}"]
        assert "Warning" not in on_ranks((2, typed))
    assert_same(tmp_path / "fsdp", tmp_path / "ddp")


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        [
            *("model=modern_nano", "model.value_residual=true", "model.value_embeddings=true"),
            *("model.tied=false", "model.ngram=3", "model.n_kv_head=1", "model.window=9"),
            *("optimizer=muon", "optimizer.momentum_warmup=2"),
        ],
        ["model=mingru_nano", "optimizer=muon"],
    ],
    ids=["modern", "mingru"],
)
def test_other_models_and_muon_are_the_same_on_one_rank_and_two(settings, tmp_path, choices):
    shape = [text for text in settings if not text.startswith("model")]
    shape += [*choices, "trainer.max_steps=4", "trainer.eval_every=4"]
    alone([*shape, f"output_dir={tmp_path / 'one'}"])
    on_ranks(
        *(
            (2, [*shape, f"device.parallel={parallel}", f"output_dir={tmp_path / parallel}"])
            for parallel in ("ddp", "fsdp")
        )
    )
    for parallel in ("ddp", "fsdp"):
        assert_same(tmp_path / parallel, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_bf16_on_two_ranks_follows_fp32_on_one(short, tmp_path, parallel):
    exact, rounded = tmp_path / "exact", tmp_path / "rounded"
    alone([*short, f"output_dir={exact}"])
    typed = ["device.precision=bf16", f"device.parallel={parallel}", f"output_dir={rounded}"]
    on_ranks((2, [*short, *typed]))
    for a, b in zip(rows(rounded), rows(exact), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=5e-3)


@pytest.mark.slow
def test_ranks_drop_other_channels_out_and_the_same_ones_in_every_run(short, tmp_path):
    first, again, single = (tmp_path / name for name in ("first", "again", "single"))
    dropping = [*short, "model.dropout=0.5"]
    on_ranks(*((2, [*dropping, f"output_dir={path}"]) for path in (first, again)))
    alone([*dropping, f"output_dir={single}"])
    losses = {path: [row["train/loss"] for row in rows(path)] for path in (first, again, single)}
    assert losses[first] == losses[again] != losses[single]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_on_all_ranks_and_the_run_goes_on(settings, tmp_path, number):
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    many = [*settings, "trainer.eval_every=10000", "trainer.save_every=10000", "callback=[]"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    typed = [*many, "trainer.max_steps=5000", f"output_dir={stopped}"]
    process = subprocess.Popen(
        [*command, "-m", "tinygpt.train", *typed], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not any(path.stat().st_size for path in stopped.glob("*/metrics.jsonl")):
        time.sleep(0.02)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0].decode()
    path = only_run(stopped)
    assert record(stopped)["status"] == "interrupted", printed
    assert record(stopped)["error"] == number.name
    assert f"go on with\n  torchrun ... -m tinygpt.train resume={path}" in printed
    end = f"trainer.max_steps={rows(stopped)[-1]['step'] + 3}"
    on_ranks((2, [f"resume={path}", end]))
    alone([*many, f"output_dir={straight}", end])
    assert_same(stopped, straight, but_for_evaluations=True)


@pytest.mark.slow
def test_without_its_main_rank_a_run_ends_with_words_and_goes_on(short, tmp_path):
    broken = tmp_path / "broken"
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    typed = [*with_steps(short, 5000), f"output_dir={broken}"]
    done = torchrun(str(script), str(broken), *typed)
    assert done.returncode == 1
    path = only_run(broken)
    assert "error: rank 0 of 2 (process " in done.stderr
    assert f"tinygpt.train resume={path}" in done.stderr
    alone([f"resume={path}", "trainer.max_steps=200"])
    assert record(broken)["status"] == "finished"
