"""Sequences at different positions in one forward: the same logits, whatever the others are."""

from typing import Any

import numpy as np
import pytest
import torch

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.generation.slot_decoder import SlotDecoder

V, SEQ_LEN, N = 19, 12, 4
SWITCHES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"positions": "rope", "norm": "rmsnorm", "bias": False, "feedforward": "swiglu"},
    "all": {
        **{"positions": "rope", "n_kv_head": 2, "qk_norm": True, "window": 5, "ngram": 3},
        **{"value_residual": True, "value_embeddings": True, "x0_shortcut": True},
        **{"logit_softcap": 15.0, "sandwich_norm": True, "embedding_norm": True},
    },
    "learned ngrams": {"ngram": 3, "tied": False},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=list(SWITCHES))
def test_logits_are_those_of_the_forward_and_of_no_company(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=3, n_head=4, d_model=16, **switches)
    gpt = model.build(vocab_size=V, seq_len=SEQ_LEN).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    random = np.random.default_rng(1)
    together = SlotDecoder(gpt, N, seq_len=SEQ_LEN)
    alone = [SlotDecoder(gpt, N, seq_len=SEQ_LEN) for _ in range(N)]
    held: list[list[int]] = [[] for _ in range(N)]
    for slot in range(N):
        held[slot] = random.integers(V, size=slot + 1).tolist()
        first = together.prefill(slot, held[slot])
        np.testing.assert_array_equal(first, alone[slot].prefill(slot, held[slot]))
    for turn in range(25):
        slots = [
            s for s in random.permutation(N) if len(held[s]) < SEQ_LEN and random.random() < 0.6
        ]
        if turn == 12:
            together.copy(1, 3)
            alone[3].prefill(1, held[1])
            alone[3].copy(1, 3)
            held[3] = list(held[1])
            continue
        if not slots:
            continue
        tokens = random.integers(V, size=len(slots)).tolist()
        rows = together.step(slots, tokens)
        for slot, token, row in zip(slots, tokens, rows, strict=True):
            held[slot].append(token)
            with torch.no_grad():
                expected = gpt(torch.tensor([held[slot]]))[0, -1].numpy()
            np.testing.assert_allclose(row, expected, atol=2e-5)
            if turn < 12:
                np.testing.assert_array_equal(row, alone[slot].step([slot], [token])[0])
    assert max(map(len, held)) == SEQ_LEN
    with pytest.raises(ValueError, match="13 tokens do not fit into seq_len=12"):
        together.step([int(np.argmax([len(of) for of in held]))], [1])
