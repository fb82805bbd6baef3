"""What run.c of llama2.c computes from its files, in NumPy: an independent reading of the format.

Source: karpathy/llama2.c, run.c (MIT).  T time, C width, H heads, D = C / H.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

SPECIAL = (b"<unk>", b"\n<s>\n", b"\n</s>\n")
BEGIN = 1  # also ends a text
BYTES = 256
_SIZES = 7
Array = npt.NDArray[np.float32]


class RunC:
    """A model.bin with its tokenizer.bin."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        data = model.read_bytes()
        sizes = np.frombuffer(data, "<i4", _SIZES).tolist()
        self.width, self.d_ff, self.n_layer, self.n_head, self.n_kv_head, vocab, seq_len = sizes
        self.vocab_size, is_tied = abs(vocab), vocab > 0
        self.d_head = self.width // self.n_head
        self._floats, self._at = np.frombuffer(data, "<f4", offset=4 * _SIZES), 0
        layers, width, of_keys = self.n_layer, self.width, self.n_kv_head * self.d_head
        self.embedding = self._take(self.vocab_size, width)
        self.attention_norm = self._take(layers, width)
        self.q = self._take(layers, width, width)
        self.k = self._take(layers, of_keys, width)
        self.v = self._take(layers, of_keys, width)
        self.out = self._take(layers, width, width)
        self.mlp_norm = self._take(layers, width)
        self.gate = self._take(layers, self.d_ff, width)
        self.down = self._take(layers, width, self.d_ff)
        self.up = self._take(layers, self.d_ff, width)
        self.norm = self._take(width)
        self._take(2, seq_len, self.d_head // 2)  # not used
        self.head = self.embedding if is_tied else self._take(self.vocab_size, width)
        assert self._at == len(self._floats), "model.bin has another size than its header says"
        self._read_tokenizer(tokenizer.read_bytes())

    def _take(self, *shape: int) -> Array:
        start, self._at = self._at, self._at + int(np.prod(shape))
        return self._floats[start : self._at].reshape(shape)

    def _read_tokenizer(self, data: bytes) -> None:
        self.texts: list[bytes] = []
        self.scores: list[float] = []
        at = 4  # after the length of the longest
        for _ in range(self.vocab_size):
            self.scores.append(float(np.frombuffer(data, "<f4", 1, at)[0]))
            length = int(np.frombuffer(data, "<i4", 1, at + 4)[0])
            self.texts.append(data[at + 8 : at + 8 + length])
            at += 8 + length
        assert at == len(data), "tokenizer.bin has another number of tokens than model.bin"
        self._id = {text: i for i, text in reversed(list(enumerate(self.texts)))}

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt: BEGIN, a space, and the text with the best merge first."""
        ids = [BEGIN, self._id[b" "]] if text else [BEGIN]
        for character in text:
            data = character.encode()
            known = self._id.get(data)
            ids += [byte + len(SPECIAL) for byte in data] if known is None else [known]
        while True:
            pairs = (self.texts[a] + self.texts[b] for a, b in pairwise(ids))
            merged = [(i, self._id[pair]) for i, pair in enumerate(pairs) if pair in self._id]
            if not merged:
                return ids
            at, best = max(merged, key=lambda pair: (self.scores[pair[1]], -pair[0]))
            ids[at : at + 2] = [best]

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The `n` likeliest tokens after the ids, or fewer if the text ends."""
        ids, start = list(ids), len(ids)
        while len(ids) < start + n:
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] == BEGIN:
                return ids[start:-1]
        return ids[start:]

    def logits(self, ids: Sequence[int]) -> Array:
        """(T, V) for T ids."""
        x = self.embedding[list(ids)].copy()
        for layer in range(self.n_layer):
            y = _rms_norm(x, self.attention_norm[layer])
            q, k, v = (y @ weights[layer].T for weights in (self.q, self.k, self.v))
            x += self._attention(self._rotated(q), self._rotated(k), v) @ self.out[layer].T
            y = _rms_norm(x, self.mlp_norm[layer])
            gate = y @ self.gate[layer].T
            x += (gate / (1 + np.exp(-gate)) * (y @ self.up[layer].T)) @ self.down[layer].T
        logits: Array = _rms_norm(x, self.norm) @ self.head.T
        return logits

    def _rotated(self, rows: Array) -> Array:
        """Rotate neighbouring components of each head."""
        angles = np.outer(
            np.arange(len(rows)), 10000.0 ** (-np.arange(0, self.d_head, 2) / self.d_head)
        )[:, None]
        pairs = rows.reshape(len(rows), -1, self.d_head // 2, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        turned = (a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles))
        return np.stack(turned, -1).reshape(rows.shape).astype(np.float32)

    def _attention(self, q: Array, k: Array, v: Array) -> Array:
        queries, keys, values = (rows.reshape(len(rows), -1, self.d_head) for rows in (q, k, v))
        shared = self.n_head // self.n_kv_head
        keys, values = keys.repeat(shared, 1), values.repeat(shared, 1)
        scores = np.einsum("thd,shd->hts", queries, keys) / self.d_head**0.5
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed: Array = np.einsum("hts,shd->thd", weights, values).reshape(q.shape)
        return mixed.astype(np.float32)


def _rms_norm(x: Array, gain: Array) -> Array:
    normed: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(1e-5)) * gain
    return normed
