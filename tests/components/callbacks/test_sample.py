from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinygpt.components.callbacks.sample import SampleConfig
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import CallbackContext, Logger, Tokenizer
from tinygpt.language_model import LanguageModel

PROMPTS = ["Once", ""]


class Bytes(Tokenizer):
    """Id 0 ends a text, id b + 1 is byte b: what a random model writes is seldom UTF-8."""

    vocab_size = 257

    def encode(self, text: str) -> list[int]:
        return self.encode_bytes(text.encode())

    def encode_bytes(self, data: bytes) -> list[int]:
        return [byte + 1 for byte in data]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(i - 1 for i in ids if i)

    def save(self, folder: Path) -> None: ...

    def fingerprint(self) -> str:
        return "bytes"


class Recorder(Logger):
    def __init__(self) -> None:
        self.rows: list[tuple[int, list[str]]] = []

    def samples(self, step: int, texts: Sequence[str]) -> None:
        self.rows.append((step, list(texts)))


def new_state(step: int) -> Any:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=1, n_head=1, d_model=8).build(vocab_size=257, seq_len=16)
    return SimpleNamespace(model=model, step=step, callbacks={})


def run(folder: Path, state: Any, **fields: Any) -> list[tuple[int, list[str]]]:
    folder.mkdir(exist_ok=True)
    logger = Recorder()
    context = CallbackContext(tokenizer=Bytes(), folder=folder, logger=logger, seq_len=16)
    config = SampleConfig(**{"prompts": PROMPTS, "max_new_tokens": 30, "top_k": None, **fields})
    assert config.build(context).on_eval(state, {"val/loss": 1.0}) is None
    return logger.rows


def test_without_prompts_those_of_the_dataset_are_continued(tmp_path: Path) -> None:
    context = CallbackContext(Bytes(), tmp_path, Recorder(), 16, prompts=["Tom had a"])
    SampleConfig(max_new_tokens=4).build(context).on_eval(new_state(1), {})
    (file,) = (tmp_path / "samples").iterdir()
    assert file.read_bytes().startswith(b"--- prompt: 'Tom had a'\nTom had a")


def test_texts_go_to_a_file_of_the_step_and_to_the_loggers(tmp_path: Path) -> None:
    ((step, texts),) = run(tmp_path, new_state(100), num_samples=2)
    assert step == 100
    assert [text.startswith("Once") for text in texts] == [True, True, False, False]
    assert len(set(texts)) == 4
    file = (tmp_path / "samples" / "step-00000100.txt").read_bytes().decode()
    blocks = zip(["Once", "Once", "", ""], texts, strict=True)
    assert file == "".join(f"--- prompt: {prompt!r}\n{text}\n\n" for prompt, text in blocks)


def test_the_same_weights_write_the_same_texts_whatever_the_step_and_the_rest(
    tmp_path: Path,
) -> None:
    state = new_state(100)
    ((_, texts),) = run(tmp_path, state)
    torch.rand(1000)
    state.step = 200
    ((_, again),) = run(tmp_path, state, num_samples=3)
    assert [again[0], again[3]] == texts
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_the_training_notices_nothing(tmp_path: Path) -> None:
    state = new_state(1)
    state.model.train()
    rng, weights = torch.get_rng_state(), [p.clone() for p in state.model.parameters()]
    run(tmp_path, state)
    assert torch.equal(torch.get_rng_state(), rng)
    assert state.model.training
    assert all(p.grad is None for p in state.model.parameters())
    assert all(map(torch.equal, state.model.parameters(), weights))


class Chain(LanguageModel):
    """Writes one given chain of different bytes, then the end of the text."""

    def __init__(self, chain: bytes) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(257, 257))
        ids = [*Bytes().encode_bytes(chain), 0]
        self.table.data[ids[:-1], ids[1:]] = 1000.0

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_bytes_that_are_no_character_are_written_as_u_fffd(tmp_path: Path) -> None:
    lone_surrogate = "\ud800".encode("utf-8", "surrogatepass")
    state = SimpleNamespace(model=Chain(b"a" + lone_surrogate), step=1, callbacks={})
    ((_, texts),) = run(tmp_path, state, prompts=["a"])
    assert texts == ["a\ufffd\ufffd\ufffd"]


def test_values_out_of_range_are_refused_as_typed() -> None:
    with pytest.raises(UserError, match=r"^callback\.sample\.temperature=-1 must be at least 0"):
        SampleConfig(temperature=-1)
    with pytest.raises(UserError, match=r"^callback\.sample\.num_samples=0 must be at least 1"):
        SampleConfig(num_samples=0)
    with pytest.raises(UserError, match=r"^callback\.sample\.prompts=\[\] asks for nothing"):
        SampleConfig(prompts=[])
