"""Floating-point operations of a model."""


def flops_per_token(*, n_params: int, n_layer: int, d_model: int, seq_len: int) -> int:
    """Forward and backward for one token; n_params counts the weights of matrix products.

    Attention is counted as if it were not causal. PaLM (arXiv 2204.02311), appendix B.
    """
    return 6 * n_params + 12 * n_layer * d_model * seq_len
