"""Encoding with several processes: the same tokens, and no process is left behind.

The test file is also the program that the tests start and kill: see `main` at its end.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.corpus import encoding
from tinygpt.corpus.encoding import Encoder, Texts
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer, TokenizerConfig

STORIES = [
    "".join(f"{who} saw {n} {what}. " for n in range(i % 40)) + tail
    for i, tail in enumerate(
        ["é", "🙂 ok", "lone \ud83d", "\ude00 back", "\0", "\u2581", "", "z\n"]
    )
    for who in ("Ann", "Ben")
    for what in ("a cat", "a dog")
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are started after the first batch."""
    monkeypatch.setattr(encoding, "_ALONE_S", 0.0)


def batches(n: int = 12) -> Iterator[Texts]:
    for i in range(n):
        texts = STORIES[i:] + STORIES[:i]
        yield Texts(i // 3, len(texts) + i, texts, "".join(texts).encode("utf-8", "surrogatepass"))


def encoder(cfg: TokenizerConfig, folder: Path, *, workers: int) -> tuple[Encoder, Tokenizer]:
    tokenizer = cfg.train(iter(STORIES[4:]))
    tokenizer.save(folder)
    dtype = np.dtype("<u2")
    return Encoder(tokenizer, cfg=cfg, folder=folder, dtype=dtype, workers=workers), tokenizer


PICKY = """
from dataclasses import dataclass
from tinygpt.errors import UserError
from tinygpt.components.tokenizers.char import CharConfig, CharTokenizer

class PickyTokenizer(CharTokenizer):
    def encode_batch(self, texts):
        if any("?" in text for text in texts):
            raise UserError("this tokenizer cannot write ?")
        return super().encode_batch(texts)

@dataclass
class PickyConfig(CharConfig):
    def train(self, documents):
        return PickyTokenizer(CharConfig.train(self, documents).characters)

    def load(self, folder):
        return PickyTokenizer(CharConfig.load(self, folder).characters)
"""


def test_what_a_tokenizer_refuses_in_another_process_is_reported_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky_tokenizer.py").write_text(PICKY)
    monkeypatch.syspath_prepend(tmp_path)
    many, _ = encoder(import_module("picky_tokenizer").PickyConfig(), tmp_path, workers=2)
    fine = ["a cat", "a dog"]
    work = [Texts(0, 2, texts, "".join(texts).encode()) for texts in (fine, fine, ["a cat?"])]
    with many, pytest.raises(UserError, match=r"^this tokenizer cannot write \?$"):
        list(many.encoded(work))


@pytest.mark.parametrize(
    "cfg",
    # the other tests encode characters
    [BPEConfig(vocab_size=300), pytest.param(CharConfig(), marks=pytest.mark.slow)],
    ids=["bpe", "char"],
)
def test_processes_give_what_one_gives_in_the_same_order(
    tmp_path: Path, cfg: TokenizerConfig
) -> None:
    alone, tokenizer = encoder(cfg, tmp_path, workers=1)
    many, _ = encoder(cfg, tmp_path, workers=2)
    with alone, many:
        results = [list(e.encoded(batches())) for e in (alone, many)]
        assert len(many._children) == 2
        assert not alone._children
    for (texts, expected), (other_texts, batch) in zip(*results, strict=True):
        assert texts == other_texts
        assert batch.tokens.dtype == expected.tokens.dtype
        for field in ("tokens", "lengths", "utf8_bytes", "digests"):
            assert getattr(batch, field).tolist() == getattr(expected, field).tolist()
        ids = [[*tokenizer.encode(text), tokenizer.eot_id] for text in texts.texts]
        assert batch.tokens.tolist() == list(chain(*ids))
        assert batch.lengths.tolist() == [len(i) for i in ids]
        assert batch.utf8_bytes.sum() == len(texts.utf8)


def test_little_text_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_ALONE_S", 60.0)
    here, _ = encoder(CharConfig(), tmp_path, workers=3)
    with here:
        assert len(list(here.encoded(batches()))) == 12
        assert not here._children


def test_only_a_few_batches_are_taken_ahead(tmp_path: Path) -> None:
    taken = 0

    def counted() -> Iterator[Texts]:
        nonlocal taken
        for texts in batches(100):
            taken += 1
            yield texts

    here, _ = encoder(CharConfig(), tmp_path, workers=2)
    with here:
        for given, _ in enumerate(here.encoded(counted())):
            assert taken - given <= 2 * encoding._PER_WORKER + 2
    assert taken == 100


def test_a_process_imports_neither_torch_nor_the_main_module(tmp_path: Path) -> None:
    here, _ = encoder(NosyConfig(), tmp_path, workers=2)
    with here:
        list(here.encoded(batches(3)))
    modules = (tmp_path / "modules.txt").read_text().split()
    assert "tinygpt.components.tokenizers.char" in modules
    assert not {"torch", "__mp_main__"}.intersection(modules)


@dataclass
class NosyConfig(CharConfig):
    """Notes what is imported in the process that loads it, and prints to where replies go."""

    def load(self, folder: Path) -> Tokenizer:
        print("what is printed here is no reply")
        (folder / "modules.txt").write_text(" ".join(sys.modules))
        return super().load(folder)


def test_a_process_that_was_killed_is_named_with_what_to_type(tmp_path: Path) -> None:
    here, _ = encoder(CharConfig(), tmp_path, workers=2)
    with here:
        encoded = here.encoded(batches(20))
        next(encoded)
        next(encoded)
        for child in here._children:
            child._process.kill()
        with pytest.raises(UserError, match=r"was killed by signal 9; .* type workers=1"):
            list(encoded)


# Nothing stays behind


def started(cache: Path, cfg_workers: int = 2) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that encodes without end, and the ids of its children."""
    command = [sys.executable, __file__, str(cache), str(cfg_workers)]
    paths = {"PYTHONPATH": str(Path(tinygpt.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | paths,
        start_new_session=True,
    )
    assert process.stdout
    return process, [int(pid) for pid in process.stdout.readline().split()]


def gone(pid: int) -> bool:
    try:
        return "Z" in re.sub(r".*\)", "", Path(f"/proc/{pid}/stat").read_text()).split()[0]
    except FileNotFoundError:
        return True


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    "how",
    # SIGTERM is handled as SIGINT is
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_however_the_parent_ends_its_processes_end_with_it(
    tmp_path: Path, how: signal.Signals
) -> None:
    process, children = started(tmp_path)
    assert len(children) == 2
    os.killpg(process.pid, how)  # as Ctrl-C does: to all in the terminal's foreground
    try:
        errors = process.communicate(timeout=30)[1]
    except subprocess.TimeoutExpired:
        for group in (process.pid, *children):  # nothing may stay behind, also where this fails
            os.killpg(group, signal.SIGKILL)
        raise AssertionError(f"{how.name} did not end it:\n{process.communicate()[1]}") from None
    wait_until(lambda: all(map(gone, children)))
    if how == signal.SIGINT:
        assert (process.returncode, errors) == (130, "error: interrupted\n")


def main(folder: Path, workers: int) -> None:
    """Encode for ever; says first which processes there are."""
    from tinygpt import console

    encoding._ALONE_S = 0.0
    here, _ = encoder(CharConfig(), folder, workers=workers)

    def work() -> None:
        with here:
            for n, _ in enumerate(here.encoded(batches(10**9))):
                if n == 20:
                    print(*(child._process.pid for child in here._children))

    console.guarded(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
