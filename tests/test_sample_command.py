"""The sample command: its arguments, and where it writes its output."""

import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tinygpt import sample
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.components.tokenizers.char import CharConfig, CharTokenizer
from tinygpt.config import compose
from tinygpt.errors import UserError
from tinygpt.generation.engine import FinishedEvent, TokenEvent
from tinygpt.generation.view import Progress, Speed, has_colours
from tinygpt.records.folder import RunFolder
from tinygpt.sample import SampleConfig, parse, write
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.state import TrainState

TOKENIZER: CharTokenizer = CharConfig().train(iter(["abxé🙂"]))
EOT = TOKENIZER.eot_id


# What may be typed


def test_everything_behind_the_first_equals_sign_is_the_value() -> None:
    prompts = ["a, b, c", 'it\'s "x"', "1 + 1 = 2", "", "null", " \\n$[]{}ü🙂", "prompt=x"]
    settings = parse(["run=outputs/a=b", *(f"prompt={text}" for text in prompts), "seed=3"])
    assert settings.prompt == prompts
    assert (settings.run, settings.seed) == ("outputs/a=b", 3)


def test_values_have_types_and_the_others_their_defaults() -> None:
    assert parse([]) == SampleConfig()
    assert (SampleConfig().run, SampleConfig().prompt) == ("latest", [])
    settings = parse(["top_k=null", "top_p=0.9", "temperature=1e-1", "num_samples=3", "device=cpu"])
    assert settings == SampleConfig(
        top_k=None, top_p=0.9, temperature=0.1, num_samples=3, device="cpu"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promt=a"], "promt is not a field; did you mean prompt?"),
        (["out_dir=x"], "out_dir is not a field of tinygpt; here it is run="),
        (["prompt"], "'prompt' is not understood; settings are typed as key=value"),
        (["Once upon a time"], "'Once upon a time' is not understood"),
        (["--temperature=1"], "--temperature=1 is not a flag"),
        (["seed=1", "seed=2"], "seed is typed twice: 1 and 2"),
        (["num_samples=0"], "num_samples=0 must be at least 1"),
        (["num_samples=many"], "num_samples=many is of the wrong type: the field takes a whole"),
        (["num_samples=null"], "num_samples="),
        (["temperature=-1"], "temperature=-1.0 must be at least 0"),
        (["min_p=2"], "min_p=2.0 must be at most 1"),
        (["logprobs=-1"], "logprobs=-1 must be at least 0"),
        (["logit_bias=5"], "logit_bias=5: '5' is not TOKEN:BIAS; type such as logit_bias=13:-100"),
        (["logit_bias=a:1"], "logit_bias=a:1: 'a:1' is not TOKEN:BIAS"),
        (["stop="], "stop= has no value"),
        (["show=colours"], "show=colours is not a choice"),
        (["weights=int4"], "weights=int4 is not a choice; did you mean weights=int8?"),
        (["prompt=a", "prompt_file=b"], "prompt= and prompt_file= both say what to continue"),
        (["interactive=true", "prompt=a"], "prompt= has no use with interactive=true"),
        (["interactive=true", "num_samples=2"], "num_samples= has no use with interactive=true"),
        (["interactive=true", "out=x"], "out= has no use with interactive=true"),
        (["temperature=0", "num_samples=2"], "num_samples=2 texts are all the same at temperature"),
        (["temperature=0", "top_p=0.9"], "top_p=0.9 changes nothing at temperature=0"),
        (["out=x", "show=logprobs"], "out= writes the samples and shows none"),
        (["logprobs=3"], "logprobs=3 is neither shown nor written; type show=logprobs or out=FILE"),
        (["checkpoint=newest"], "checkpoint=newest is not a choice"),
        (["device=gpu"], "device=gpu is not a choice"),
    ],
)
def test_what_is_not_understood_is_refused_as_typed(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(arguments)
    assert str(error.value).startswith(message)


def test_stop_strings_and_biases_are_typed_as_they_are() -> None:
    settings = parse(["stop=, ", "stop=\n\n", "logit_bias=13:-100,4:2.5", "ignore_eot=true"])
    assert settings.stop == [", ", "\n\n"]
    assert settings.logit_bias == {13: -100.0, 4: 2.5}
    assert parse(["logit_bias={7: -1e2}"]).logit_bias == {7: -100.0}
    assert settings.ignore_eot is True


# A run to sample from


def chained(model: GPT, chain: dict[int, int]) -> None:
    """Set the weights so that after token t the model is sure of chain[t].

    Embeddings are the unit vectors, the attention adds nothing, and the MLP adds a large unit
    vector of the next token.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1 if name in ("norm.weight", "blocks.0.mlp_norm.weight") else 0)
        weights = dict(model.named_parameters())
        weights["token_embedding.weight"].fill_diagonal_(1)
        weights["blocks.0.mlp.up.weight"].fill_diagonal_(10)
        weights["blocks.0.mlp.up.bias"].fill_(-5)  # nothing but the token at hand passes the GELU
        for token, following in chain.items():
            weights["blocks.0.mlp.down.weight"][following, token] = 10


def make_run(
    folder: Path, *chains: dict[int, int], best_step: int = 1, bad_weight: float | None = None
) -> Path:
    """A run with a checkpoint per chain, or one of random weights for an empty one."""
    width = TOKENIZER.vocab_size
    shape = ["model=nano", "model.n_layer=1", "model.n_head=1", f"model.d_model={width}"]
    cfg = compose.compose(
        "train", [*shape, "tokenizer=char", "trainer.seq_len=8", "trainer.tokens_per_step=128"]
    )
    run = RunFolder.create(folder, cfg=cfg, overrides=[], run_id=folder.name, group=None)
    TOKENIZER.save(run.tokenizer)
    checkpoints = Checkpoints(run.checkpoints, keep=len(chains))
    for step, chain in enumerate(chains, start=1):
        torch.manual_seed(0)
        model = cfg.model.build(vocab_size=width, seq_len=8)
        if chain:
            chained(model, chain)
        else:
            torch.nn.init.normal_(model.token_embedding.weight)  # opinions
        if bad_weight is not None:
            model.token_embedding.weight.data[0, 0] = bad_weight
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        optimizer = cfg.optimizer.build(model)
        state = TrainState(model, optimizer, scaler, step=step, best_step=min(step, best_step))
        checkpoints.save(state)
    run.close("finished")
    return folder


def chain_of(*texts: str, ends: bool = True) -> dict[int, int]:
    """Each text goes on from its first token to its last, and then ends."""
    chain: dict[int, int] = {}
    for text in texts:
        ids = [*TOKENIZER.encode(text), EOT]
        chain |= dict(pairwise(ids))
    return chain


# ß is not in the vocabulary: four tokens spell it
SPELLED = chain_of("a🙂ßéb", "x") | {EOT: TOKENIZER.encode("a")[0]}


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("outputs") / "spelled", SPELLED)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("outputs") / "random", {})


def written(run: Path, capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    write(SampleConfig(run=str(run), device="cpu", **fields))
    return capsys.readouterr().out


def texts(output: str) -> list[str]:
    """The samples in the output, without their heads."""
    return [part.partition("\n")[2] for part in output.split("\n--- sample ")[1:]]


# What is written


def test_prompts_and_what_follows_are_written_and_nothing_else(
    spelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        SampleConfig(
            run=str(spelled), prompt=["a", "xa🙂", "b", "", "b"], temperature=0, device="cpu"
        )
    )
    output, errors = capsys.readouterr()
    assert output == (
        "\n--- sample 1\na🙂ßéb\n"
        "\n--- sample 2\nxa🙂ßéb\n"
        "\n--- sample 3\nb\n"  # ends at once
        "\n--- sample 4\na🙂ßéb\n"  # from the beginning of a document
        "\n--- sample 5\nb\n"
    )
    first, last = errors.splitlines()
    assert first == f"{spelled}, step-00000001, on cpu"
    assert re.fullmatch(
        r"21 tokens in \d+\.\d\d s, [\d,]+ tok/s, the first after \d\.\d{3} s", last
    )


def test_a_character_appears_whole_as_soon_as_its_last_byte_is_there(
    spelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Terminal(io.StringIO):
        def flush(self) -> None:
            if new := self.getvalue()[len("".join(shown)) :]:
                shown.append(new)

    monkeypatch.setattr(sys, "stdout", Terminal())
    write(SampleConfig(run=str(spelled), prompt=["a"], temperature=0, device="cpu"))
    assert shown == ["\n--- sample 1\na", "🙂", "ß", "é", "b"]


def test_a_character_that_is_cut_off_is_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    c, three, nine, _ = TOKENIZER.encode("ß")  # bytes C3 9F
    a, b, x, end = (TOKENIZER.encode(text)[0] for text in "abx🙂")
    run = make_run(
        tmp_path / "cut",
        {a: c, c: three, three: EOT}  # a first byte at the end of the text
        | {b: nine, nine: EOT}  # half a byte
        | {x: end, end: x},  # for ever
    )
    cut = written(run, capsys, prompt=["a", "b", "x"], temperature=0, max_new_tokens=3)
    assert texts(cut) == ["a\ufffd\n", "b\n", "x🙂x🙂\n"]
    # what was begun in one sample is not ended in the next
    assert texts(written(run, capsys, prompt=["b", "a"], temperature=0)) == ["b\n", "a\ufffd\n"]


def test_text_continues_past_the_context_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = TOKENIZER.encode("ab")
    run = make_run(tmp_path / "endless", {a: b, b: a})
    (text,) = texts(written(run, capsys, prompt=["ab" * 9], temperature=0, max_new_tokens=50))
    assert text == "ab" * 9 + "ab" * 25 + "\n"


def test_sample_i_of_a_prompt_is_the_same_whatever_else_is_asked_for(
    random: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def samples(*prompts: str, num_samples: int = 1, seed: int = 0) -> list[str]:
        options = {"num_samples": num_samples, "seed": seed, "temperature": 10.0, "top_k": None}
        return texts(written(random, capsys, prompt=list(prompts), max_new_tokens=20, **options))

    three = samples("a", num_samples=3)
    assert len(set(three)) == 3
    assert all(text.startswith("a") for text in three)
    assert samples("a") == three[:1]
    assert samples("a", num_samples=2) == three[:2]
    assert samples("b", "a", num_samples=2)[2:] == three[:2]
    assert samples("a", "a", "a") == three
    assert samples("a", seed=1) != three[:1]


def test_best_is_the_lowest_validation_loss_and_latest_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "two", chain_of("xa"), chain_of("xb"), best_step=1)
    for choice, text in (("best", "xa\n"), ("latest", "xb\n")):
        assert texts(written(run, capsys, prompt=["x"], checkpoint=choice)) == [text]
    run = make_run(tmp_path / "three", chain_of("xa"), chain_of("xb"), best_step=2)
    assert texts(written(run, capsys, prompt=["x"])) == ["xb\n"]


# Prompts from a file, samples into a file


def test_prompts_come_from_lines_and_from_json(
    spelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, values = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_bytes(b"\xef\xbb\xbfa\r\n\n xa\nb")
    values.write_text('"a\\nb"\n\n{"prompt": "", "id": 7}\n')
    found = written(spelled, capsys, prompt_file=str(lines), temperature=0)
    assert texts(found) == ["a🙂ßéb\n", " xa🙂ßéb\n", "b\n"]
    found = written(spelled, capsys, prompt_file=str(values), temperature=0)
    assert texts(found) == ["a\nb\n", "a🙂ßéb\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt cannot be read: No such file"),
        ("empty.txt", b"\n \n", "empty.txt holds no prompt; write one on each line"),
        ("latin.txt", b"caf\xe9\n", "latin.txt is not UTF-8 text (byte 3); convert it"),
        ("bad.jsonl", b'"a"\n{a}\n', "bad.jsonl, line 2: not JSON: Expecting property name"),
        ("bad.jsonl", b'{"text": "a"}', "bad.jsonl, line 1: a line must be a text, or an object"),
    ],
)
def test_a_prompt_file_without_prompts_is_refused_before_torch_is_loaded(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        write(SampleConfig(run="nothing", prompt_file=str(path)))
    assert str(error.value).startswith(f"prompt_file={tmp_path}/{message}")


def test_samples_are_written_as_json_lines_with_what_made_them(
    spelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "samples.jsonl"
    settings = {"stop": ["éb"], "logprobs": 2, "temperature": 0}
    printed = written(spelled, capsys, prompt=["a", "x\u2028\udcff", "a"], out=str(out), **settings)
    assert printed == f"3 samples are in {out}\n"
    assert [*tmp_path.iterdir()] == [out]
    first, second, third = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert first["prompt"] == third["prompt"] == "a"
    assert (first["sample"], third["sample"]) == (0, 1)
    assert second["prompt"] == "x\u2028\udcff"
    assert first["text"] == "🙂ß"
    assert TOKENIZER.decode(first["tokens"]) == "🙂ßéb"
    assert first["finish_reason"] == "stop"
    assert len(first["logprobs"]) == len(first["top_logprobs"]) == len(first["tokens"])
    assert first["top_logprobs"][0][0] == [first["tokens"][0], first["logprobs"][0]]
    assert first["settings"]["stop"] == ["éb"]
    assert first["settings"]["weights"] == "auto"
    assert (first["run"], first["checkpoint"]) == (str(spelled), "step-00000001")


def test_a_file_of_samples_replaces_none_and_needs_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"out=.* exists, and samples are not mixed"):
        write(SampleConfig(run="nothing", out=str(out)))
    assert out.read_text() == "mine"
    with pytest.raises(UserError, match=r"there is no folder .*/none; make it"):
        write(SampleConfig(run="nothing", out=str(tmp_path / "none" / "samples.jsonl")))


def soon(condition: Callable[[], bool], action: Callable[[], Any]) -> None:
    """Do something in a thread, once something holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.01)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_finished_samples_survive_an_interruption_and_the_same_command_goes_on(
    random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def settings(out: str, **changes: Any) -> SampleConfig:
        fields = {"prompt": ["a", "b", "a"], "num_samples": 100, "max_new_tokens": 20} | changes
        return SampleConfig(run=str(random), device="cpu", out=str(tmp_path / out), **fields)

    write(settings("straight"))
    straight = (tmp_path / "straight").read_bytes()
    partial = tmp_path / "again.partial"
    whole = lambda: partial.exists() and partial.stat().st_size > 0  # noqa: E731
    soon(whole, lambda: os.kill(os.getpid(), signal.SIGINT))  # as Ctrl-C does
    with pytest.raises(KeyboardInterrupt):
        write(settings("again"))
    kept = partial.read_bytes()
    n_kept = kept.count(b"\n")
    assert straight.startswith(kept)
    assert 0 < n_kept < 300
    assert f"{n_kept} samples are in {partial}, of 300; repeat" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"in line 1 seed is 0, and here it is 1; repeat that"):
        write(settings("again", seed=1))
    with pytest.raises(UserError, match=r"in line 1 prompt is a, and here it is b"):
        write(settings("again", prompt=["b"]))
    with pytest.raises(UserError, match=r"holds more samples than this command makes"):
        write(settings("again", prompt=["a"], num_samples=1))
    with FileLock(f"{partial}.lock"), pytest.raises(UserError, match=r"another command is writing"):
        write(settings("again"))
    partial.write_bytes(kept + b'{"prompt": "a", "sam')  # a line that a crash cut short
    write(settings("again"))
    assert (tmp_path / "again").read_bytes() == straight
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "straight"]


def test_an_interruption_before_the_first_sample_leaves_nothing(
    random: Path, tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    settings = SampleConfig(run=str(random), out=str(out), max_new_tokens=10**9, ignore_eot=True)
    partial = tmp_path / "samples.jsonl.partial"
    soon(partial.exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write(settings)
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_vanishes_is_named(random: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = SampleConfig(run=str(random), out=str(folder / "s"), num_samples=150)
    soon((folder / "s.partial").exists, lambda: shutil.rmtree(folder))
    with pytest.raises(UserError, match=r"out=.* cannot be written: .*/folder has been removed"):
        write(settings)


def test_the_progress_of_a_file_is_reported_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speed = Speed()
    progress = Progress(2, speed, every_s=0)
    for event in (TokenEvent(0, 5, "a"), FinishedEvent(0, "eot", "")):
        speed.add(event)
        progress.add(event)
    progress.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("0 of 2 samples, 1 token in ")
    assert re.fullmatch(r"1 of 2 samples, 1 token in .* tok/s, the first after .* s", second)


# Surprise


def test_log_probabilities_are_rows_where_there_are_no_colours(
    spelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = written(spelled, capsys, prompt=["é"], temperature=0, show="logprobs", logprobs=1)
    prompt, head, row, end = texts(output)[0].splitlines()
    assert (prompt, head, end) == ("é", " logprob       p  token", "ended: eot")
    assert re.fullmatch(r" -0\.\d{4}  (0\.\d{4})  \"b\" +of \"b\" \1", row)
    rows = texts(written(spelled, capsys, prompt=["a"], temperature=0, show="logprobs"))[0]
    tokens = ['"🙂"', "id 13", "id 4", "id 10", "id 16", '"é"', '"b"']
    assert re.findall(r"-?\d\.\d{4}  \d\.\d{4}  (.*)", rows) == tokens


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_surprise_is_a_colour(
    random: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    settings = SampleConfig(
        run=str(random),
        prompt=["a"],
        device="cpu",
        show="logprobs",
        temperature=30,
        top_k=None,
        ignore_eot=True,
        max_new_tokens=40,
    )
    monkeypatch.setattr(sys, "stdout", Terminal())
    write(settings)
    shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert (
        capsys.readouterr().err.splitlines()[1].startswith("surprise in bits:  0 to 1  \x1b[30;48")
    )
    assert "\x1b[30;48;5;" in shown
    monkeypatch.setattr(sys, "stdout", Terminal())
    settings.show = "text"
    write(settings)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == sys.stdout.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(sys.stdout)


# What goes wrong


def test_a_run_without_a_checkpoint_is_refused_with_the_command_that_makes_one(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "young")
    with pytest.raises(UserError) as error:
        write(SampleConfig(run=str(run)))
    assert str(error.value) == (
        f"run={run} has no checkpoint to write with; go on training it with\n"
        f"  python -m tinygpt.train resume={run}"
    )


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(weight: float, tmp_path: Path) -> None:
    run = make_run(tmp_path / "diverged", {}, bad_weight=weight)
    with pytest.raises(UserError) as error:
        write(SampleConfig(run=str(run), device="cpu"))
    assert str(error.value) == (
        f"run={run}: the weights of step-00000001 are not finite, so they cannot write; "
        "train again with a lower optimizer.lr"
    )


def test_the_newest_run_is_taken_and_without_any_the_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        sample.main([f"output_dir={tmp_path}", "prompt=a"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        f"error: run=latest: there is no run in {tmp_path}; train one first\n"
    )
    for text in ("xa", "xb"):
        make_run(tmp_path / text, chain_of(text))
    sample.main([f"output_dir={tmp_path}", "prompt=x", "device=cpu"])
    assert texts(capsys.readouterr().out) == ["xb\n"]


def test_a_prompt_and_a_text_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "wild", chain_of("a\x1bb"))
    # \udcff is a byte of the command line that is no UTF-8
    sample.main([f"run={run}", "prompt=\x1b]0;\x07\r\n\udcffa", "temperature=0", "device=cpu"])
    assert texts(capsys.readouterr().out) == ["\\x1b]0;\\x07\n\\udcffa\\x1bb\n"]


def test_help_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    sample.main(["--help"])
    text = capsys.readouterr().out
    for name in vars(SampleConfig()):
        assert f"\n  {name}=" in text
