"""The two files of llama2.c: model.bin (version 0) and tokenizer.bin, for its run.c.

run.c fixes the first ids: 0 unknown, 1 the beginning, which also ends a text, 2 the end, and byte b
at b + 3.  Our ids are laid out anew, and the rows of the embedding with them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinygpt.components.models.gpt import ROPE_BASE, GPTConfig
from tinygpt.components.tokenizers.bpe import LEARNED, SPACE, BPETokenizer
from tinygpt.components.tokenizers.byte import ByteTokenizer
from tinygpt.components.tokenizers.char import CharTokenizer
from tinygpt.errors import UserError, as_typed
from tinygpt.interchange import own_tokenizer
from tinygpt.interchange.architectures import architecture_of, halves_to_pairs, qkv_rows
from tinygpt.interchange.export.run_c import BYTES, SPECIAL, RunC
from tinygpt.interchange.export.source import GREEDY_TOKENS, Source, logits_of, require
from tinygpt.interchange.export.vocabularies import unsupported
from tinygpt.interfaces import Tokenizer

MODEL, TOKENIZER = "model.bin", "tokenizer.bin"
NORM_EPS = 1e-5  # constants of run.c
_TOLERANCE = 1e-4  # of logits, as a share of the largest


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of run.c: of each of its ids our id, the text, and the score for merges."""

    ours: list[int]
    texts: list[bytes]
    scores: list[float]

    def ids(self, ours: Iterable[int]) -> list[int]:
        """The ids of run.c for ours."""
        # ids 0 and 2 never occur
        known = {our: i for i, our in reversed(list(enumerate(self.ours))) if i not in (0, 2)}
        return [known[i] for i in ours]


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Lay out the ids as run.c needs them; raises UserError for a tokenizer that it cannot have.

    Two ids have no meaning for us, unknown and end.  They get the row of a token that no text holds
    (the byte FF), so that their probability is as small as that token's.
    """
    never = tokenizer.vocab_size - 1  # byte FF of the byte tokenizer
    byte_texts = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    rest: list[tuple[int, bytes, float]] = []
    if isinstance(tokenizer, BPETokenizer):
        bytes_, never = list(range(2, LEARNED)), LEARNED - 1
        rest = [(1, b"\n", 0.0)] + [
            (i, piece.replace(SPACE, " ").encode(), float(LEARNED - 1 - i))
            for i, piece in enumerate(tokenizer.pieces)
            if i >= LEARNED
        ]
    elif isinstance(tokenizer, ByteTokenizer):
        bytes_ = list(range(1, 257))
        ascii_ = [bytes([byte]) for byte in range(1, 128)]  # run.c looks the space up by its text
        byte_texts = [byte_texts[0], *ascii_, *byte_texts[128:]]
    elif isinstance(tokenizer, CharTokenizer):
        raise UserError(
            "tokenizer=char has no counterpart in to=llama2c: it spells unknown characters in half "
            "bytes, and run.c in bytes; use to=hf, or train with tokenizer=byte or tokenizer=bpe"
        )
    else:
        raise unsupported(tokenizer, field="to=llama2c")
    texts = [*SPECIAL, *byte_texts, *(text for _, text, _ in rest)]
    if b" " not in texts:
        raise UserError(
            "to=llama2c: run.c puts a space before a prompt, and the tokenizer has no token for "
            "it; use to=hf or to=gguf"
        )
    return Vocabulary(
        [never, tokenizer.eot_id, never, *bytes_, *(our for our, _, _ in rest)],
        texts,
        [0.0] * (len(SPECIAL) + BYTES) + [score for _, _, score in rest],
    )


def write(source: Source, folder: Path) -> None:
    """Write both files; raises UserError for what run.c does not compute."""
    model = _checked(source)
    words = vocabulary(source.tokenizer)
    state = source.reference.state_dict()
    sizes = [
        model.d_model,
        model.ff_width,
        model.n_layer,
        model.n_head,
        model.n_kv_head or model.n_head,
        len(words.ours) if model.tied else -len(words.ours),  # the sign says whether it is tied
        source.seq_len,
    ]
    with (folder / MODEL).open("wb") as file:
        file.write(np.array(sizes, dtype="<i4").tobytes())
        for tensor in _tensors(state, model, words, source.seq_len):
            file.write(tensor.contiguous().numpy().astype("<f4").tobytes())
    with (folder / TOKENIZER).open("wb") as file:
        file.write(np.uint32(max(map(len, words.texts))).astype("<u4").tobytes())
        for text, score in zip(words.texts, words.scores, strict=True):
            file.write(np.float32(score).astype("<f4").tobytes())
            file.write(np.int32(len(text)).astype("<i4").tobytes() + text)
    own_tokenizer.keep(source.tokenizer, folder)


def _checked(source: Source) -> GPTConfig:
    model = source.cfg.model
    architecture = architecture_of(model, field="to=llama2c")
    assert isinstance(model, GPTConfig)
    if architecture.name != "llama":
        raise UserError(
            f"to=llama2c holds only Llama's architecture, and this is a {architecture}; use to=hf "
            "or to=gguf, or train one of model=llama_tiny, llama_small and llama_medium"
        )
    for name, needed in (("bias", False), ("norm_eps", NORM_EPS), ("rope_base", ROPE_BASE)):
        value = getattr(model, name)
        if value != needed:
            raise UserError(
                f"model.{name}={as_typed(value)} has no place in to=llama2c: run.c computes with "
                f"{as_typed(needed)}; use to=hf or to=gguf"
            )
    return model


def _tensors(
    state: dict[str, Tensor], model: GPTConfig, words: Vocabulary, seq_len: int
) -> Iterable[Tensor]:
    """The tensors in the order of version 0: each kind for all layers."""
    n_kv_head = model.n_kv_head or model.n_head
    layers = range(model.n_layer)

    def each(name: str) -> list[Tensor]:
        return [state[f"blocks.{layer}.{name}"] for layer in layers]

    def gains(name: str) -> list[Tensor]:
        return each(name) if model.norm_gain else [torch.ones(model.d_model)] * model.n_layer

    qkv = [torch.split(rows, list(qkv_rows(model))) for rows in each("attention.qkv.weight")]
    yield state["token_embedding.weight"][words.ours]
    yield from gains("attention_norm.weight")
    yield from (halves_to_pairs(q, model.n_head) for q, _, _ in qkv)
    yield from (halves_to_pairs(k, n_kv_head) for _, k, _ in qkv)
    yield from (v for _, _, v in qkv)
    yield from each("attention.out.weight")
    yield from gains("mlp_norm.weight")
    yield from each("mlp.gate.weight")
    yield from each("mlp.down.weight")
    yield from each("mlp.up.weight")
    yield state["norm.weight"] if model.norm_gain else torch.ones(model.d_model)
    # tables of RoPE that run.c skips
    yield torch.zeros(2, seq_len, model.d_model // model.n_head // 2)
    if not model.tied:
        yield state["head.weight"][words.ours]


def check(source: Source, folder: Path) -> list[str]:
    """Read both files as run.c does, and compare; returns what to report."""
    run_c = RunC(folder / MODEL, folder / TOKENIZER)
    words, tokenizer = vocabulary(source.tokenizer), source.tokenizer
    texts = [text for text in source.texts() if "\0" not in text]  # which ends a string of C
    for text in texts:
        prompt = f" {text}" if text else ""  # run.c puts a space before it
        ids = words.ids([tokenizer.eot_id, *tokenizer.encode(prompt)])
        require(run_c.encode(text) == ids, source, f"tokenizer.bin gives other ids for {text!r}")
    tokens = source.windows()[0]
    ours = logits_of(source.reference, tokens[None])[0][:, words.ours].numpy()
    theirs = run_c.logits(words.ids(tokens.tolist()))
    difference, largest = float(abs(theirs - ours).max()), float(abs(ours).max())
    limit = _TOLERANCE * max(1.0, largest)
    require(difference <= limit, source, f"logits of model.bin differ by {difference:.1e}")
    same, prompts = 0, source.prompt_ids()
    for ids in prompts:
        n = min(GREEDY_TOKENS, source.seq_len - len(ids))
        new = [words.ours[i] for i in run_c.greedy(words.ids(ids), n)]
        gap = source.shortfall(ids, new)
        require(gap <= 2 * limit, source, f"greedy text of model.bin is {gap:.1e} less likely")
        same += new == source.greedy(ids)
    return [
        "model.bin read and computed in NumPy as run.c does:",
        f"ids equal for {len(texts)} of {len(texts)} texts, each after the space that run.c adds",
        f"logits differ by at most {difference:.1e}, the largest is {largest:.1f}",
        f"greedy text equal for {same} of {len(prompts)} prompts",
        "not checked by llama2.c itself: ./run model.bin -z tokenizer.bin -t 0",
    ]
