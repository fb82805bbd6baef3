"""Exports for llama2.c, read and computed as its run.c does."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.interchange.export.models import SEQ_LEN, source
from tinygpt.errors import UserError
from tinygpt.generation.engine import generate
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interchange.export.llama2c import vocabulary
from tinygpt.interchange.export.run_c import RunC
from tinygpt.interchange.export.source import logits_of
from tinygpt.interchange.export.write import export
from tinygpt.interfaces import Tokenizer


@pytest.mark.parametrize(
    ("switches", "tokenizer"),
    [((), "bpe"), (("model.n_kv_head=2", "model.tied=false"), "byte")],
)
def test_run_c_computes_the_same(switches: tuple[str, ...], tokenizer: str, tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "llama_nano", *switches, tokenizer=tokenizer)
    done = export(exported, to="llama2c", out=tmp_path / "out")
    assert done.checks[1].startswith("ids equal for ")
    assert done.checks[3] == "greedy text equal for 3 of 3 prompts"
    run_c = RunC(tmp_path / "out" / "model.bin", tmp_path / "out" / "tokenizer.bin")
    words = vocabulary(exported.tokenizer)
    ids = exported.tokenizer.encode(" Nora was an honest")
    assert run_c.encode("Nora was an honest") == words.ids([0, *ids])
    expected = logits_of(exported.reference, torch.tensor([[0, *ids]]))[0].numpy()
    logits = run_c.logits(words.ids([0, *ids]))
    np.testing.assert_allclose(logits, expected[:, words.ours], atol=1e-4)


def test_the_layout_of_ids_and_the_size_are_those_of_run_c(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "llama_nano", tokenizer="bpe")
    out = export(exported, to="llama2c", out=tmp_path / "out").path
    words, tokenizer = vocabulary(exported.tokenizer), exported.tokenizer
    assert len(words.ours) == tokenizer.vocab_size + 2
    assert words.ours[1] == tokenizer.eot_id
    assert words.texts[3 + 0x41] == b"<0x41>"
    assert [words.ours[3 + byte] for byte in (0, 255)] == [2, 257]
    assert words.texts[259] == b"\n"
    assert words.ours[259:] == [1, *range(258, tokenizer.vocab_size)]
    assert words.ours[0] == words.ours[2] == 257  # byte FF, which no text holds
    header = np.frombuffer((out / "model.bin").read_bytes(), "<i4", 7).tolist()
    model = exported.cfg.model
    assert header == [32, model.ff_width, 2, 4, 4, len(words.ours), SEQ_LEN]
    layer = 2 * 32 + 4 * 32 * 32 + 3 * 32 * model.ff_width
    floats = len(words.ours) * 32 + 2 * layer + 32 + SEQ_LEN * 8
    assert (out / "model.bin").stat().st_size == 4 * (7 + floats)


def test_rows_that_are_not_in_the_order_of_pairs_differ(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "llama_nano")
    out = export(exported, to="llama2c", out=tmp_path / "out").path
    run_c = RunC(out / "model.bin", out / "tokenizer.bin")
    words = vocabulary(exported.tokenizer)
    ids = words.ids([0, *exported.tokenizer.encode("Nora was")])
    before = run_c.logits(ids)
    rows = exported.reference.state_dict()["blocks.0.attention.qkv.weight"][:32].numpy()
    run_c.q = np.stack([rows, run_c.q[1]])
    assert abs(run_c.logits(ids) - before).max() > 1e-2


@pytest.mark.parametrize(
    ("model", "switch", "error"),
    [
        ("nano", "model.dropout=0.0", "to=llama2c holds only Llama's architecture"),
        ("qwen3_nano", "model.dropout=0.0", "to=llama2c holds only Llama's architecture"),
        ("llama_nano", "model.norm_eps=1e-6", r"model.norm_eps=1e-06 has no place .* 1e-05"),
        ("llama_nano", "model.rope_base=500.0", "model.rope_base=500.0 has no place .* 10000.0"),
        ("llama_nano", "model.bias=true", "model.bias=true has no place .* false"),
        ("llama_nano", "model.logit_softcap=15.0", "model.logit_softcap=15.0 has no counterpart"),
    ],
)
def test_what_run_c_does_not_compute_is_refused(
    model: str, switch: str, error: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=error):
        export(source(tmp_path / "run", model, switch), to="llama2c", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["hf", "char"])
def test_a_tokenizer_that_run_c_lacks_is_refused(kind: str, tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "llama_nano", tokenizer=kind)
    with pytest.raises(UserError, match=f"tokenizer={kind} has no counterpart in to=llama2c"):
        export(exported, to="llama2c", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """reader.c, compiled."""
    program = tmp_path_factory.mktemp("reader") / "reader"
    code = Path(__file__).with_name("reader.c")
    subprocess.run(["gcc", "-O1", "-o", program, code, "-lm"], check=True)
    return program


@pytest.mark.gcc
@pytest.mark.parametrize(
    ("switches", "tokenizer"),
    [((), "bpe"), (("model.n_kv_head=2", "model.tied=false"), "byte")],
)
def test_a_reader_in_c_writes_our_greedy_text(
    switches: tuple[str, ...], tokenizer: str, reader: Path, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", "llama_nano", *switches, tokenizer=tokenizer)
    out = export(exported, to="llama2c", out=tmp_path / "out").path
    words = exported.tokenizer
    greedy = SamplingConfig(temperature=0, max_new_tokens=SEQ_LEN)
    for prompt in ("", "Nora was", "The little dog ran", "caf\u00e9 \u4f60", "one\ntwo", "a  b"):
        files = (out / "model.bin", out / "tokenizer.bin")
        done = subprocess.run(
            [reader, *files, str(SEQ_LEN), prompt], capture_output=True, check=True
        )
        ids = words.encode(f" {prompt}" if prompt else "")
        (sample,) = generate(exported.model, words, [ids], config=greedy, seq_len=SEQ_LEN)
        new = sample.tokens[: SEQ_LEN - len(ids)]
        assert done.stdout == printed(words, [*ids, *new]), prompt
        assert len(new) > 20


def printed(words: Tokenizer, ids: list[int]) -> bytes:
    """What run.c prints of a text: no single byte that is no printable character."""
    text = b""
    for i in ids:
        piece = words.decode_bytes([i])
        if len(piece) != 1 or piece.isspace() or 0x20 <= piece[0] < 0x7F:
            text += piece.removeprefix(b" ") if not text else piece
    return text
