"""The measured model sizes, and the FLOPs of a training step."""

import re
from dataclasses import dataclass

from tinygpt.errors import UserError


@dataclass(frozen=True)
class Shape:
    """A GPT-2 and its batch; one forward processes all sequences of a step."""

    n_layer: int
    n_head: int
    d_model: int
    seq_len: int
    sequences: int
    vocab_size: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimizer update."""
        return self.seq_len * self.sequences

    @property
    def n_matmul(self) -> int:
        """Weights of matrix products, N: 12 C^2 in a layer, and V C for the logits."""
        return 12 * self.n_layer * self.d_model**2 + self.vocab_size * self.d_model

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: 6 N, and 6 L T C for the causal half of attention.

        PaLM (arXiv 2204.02311), appendix B, which counts both halves.
        """
        return 6 * self.n_matmul + 6 * self.n_layer * self.seq_len * self.d_model

    @property
    def linear_layers(self) -> list[tuple[int, int, int]]:
        """The distinct matrix products of a forward, as (rows, columns in, columns out)."""
        rows, c = self.tokens_per_step, self.d_model
        widths = [(c, 3 * c), (c, c), (c, 4 * c), (4 * c, c), (c, self.vocab_size)]
        return [(rows, columns_in, columns_out) for columns_in, columns_out in widths]


SHAPES = {
    "a": Shape(4, 4, 128, 64, 12, 65),  # what nanoGPT's README trains on a CPU
    "b": Shape(6, 6, 384, 256, 16, 65),
    "c": Shape(8, 8, 512, 256, 8, 4096),
    "d": Shape(12, 12, 768, 256, 2, 50304),  # GPT-2 124M, vocabulary padded to a multiple of 64
    # for a GPU
    "e": Shape(12, 12, 768, 1024, 32, 50304),
    "f": Shape(6, 6, 384, 256, 64, 65),  # what nanoGPT's README trains on a GPU
}


def parse(text: str) -> Shape:
    """Parse a letter of SHAPES, or six numbers joined by x; raises UserError."""
    if text in SHAPES:
        return SHAPES[text]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){5}", text):
        raise UserError(
            f"--shapes {text} is not a shape; type one of {', '.join(SHAPES)}, or layers, heads, "
            "width, tokens, sequences and vocabulary, such as 2x2x32x16x4x65"
        )
    return Shape(*map(int, text.split("x")))
