"""Models of other tools as files: what nanoGPT and llama2.c write, in a few lines of our own."""

import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NanoGPT(nn.Module):
    """nanoGPT's model, with the names of its parameters."""

    def __init__(
        self,
        *,
        n_layer: int,
        n_head: int,
        n_embd: int,
        block_size: int,
        vocab_size: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.n_head = n_head

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(n_embd, bias=bias)

        def layer() -> nn.Module:
            attn = nn.ModuleDict(
                {
                    "c_attn": nn.Linear(n_embd, 3 * n_embd, bias=bias),
                    "c_proj": nn.Linear(n_embd, n_embd, bias=bias),
                }
            )
            mlp = nn.ModuleDict(
                {
                    "c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias),
                    "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias),
                }
            )
            return nn.ModuleDict({"ln_1": norm(), "attn": attn, "ln_2": norm(), "mlp": mlp})

        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(layer() for _ in range(n_layer)),
                "ln_f": norm(),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to logits (B, T, V)."""
        parts: Any = self.transformer
        time = tokens.size(1)
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(time))
        future = torch.ones(time, time, dtype=torch.bool).triu(1)
        for block in parts["h"]:
            heads = block["attn"]["c_attn"](block["ln_1"](x)).split(x.size(-1), -1)
            q, k, v = (h.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for h in heads)
            scores = (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).masked_fill(future, -1e9)
            y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + block["attn"]["c_proj"](y)
            hidden = F.gelu(block["mlp"]["c_fc"](block["ln_2"](x)))  # the erf form
            x = x + block["mlp"]["c_proj"](hidden)
        logits: Tensor = self.lm_head(parts["ln_f"](x))
        return logits


def random_weights(model: nn.Module, *, std: float = 0.15) -> None:
    """Make all parameters random, norms and biases included."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=std)


def save_nanogpt(model: NanoGPT, path: Path, arguments: dict[str, Any], *, prefix: str) -> None:
    """Write a ckpt.pt as nanoGPT's train.py does, with the buffers of its older versions."""
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    state[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4).tril()
    content = {
        "model": state,
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "model_args": arguments | {"dropout": 0.1},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.25),
        "config": {"batch_size": 12, "out_dir": "out"},
    }
    torch.save(content, path)


def save_llama2c(model: Any, path: Path) -> None:
    """Write a LlamaForCausalLM as a .bin of version 0, as llama2.c's export.py does."""
    config, state = model.config, model.state_dict()

    def pairs(weight: Tensor, n_head: int) -> Tensor:
        width = weight.size(0) // n_head // 2
        return weight.view(n_head, 2, width, -1).transpose(1, 2).reshape(weight.shape)

    def of_layers(name: str, n_head: int | None = None) -> list[Tensor]:
        found = [state[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers)]
        return [pairs(weight, n_head) if n_head else weight for weight in found]

    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    half = config.hidden_size // heads // 2
    tied = config.tie_word_embeddings
    tensors = [
        state["model.embed_tokens.weight"],
        *of_layers("input_layernorm"),
        *of_layers("self_attn.q_proj", heads),
        *of_layers("self_attn.k_proj", kv_heads),
        *of_layers("self_attn.v_proj"),
        *of_layers("self_attn.o_proj"),
        *of_layers("post_attention_layernorm"),
        *of_layers("mlp.gate_proj"),
        *of_layers("mlp.down_proj"),
        *of_layers("mlp.up_proj"),
        state["model.norm.weight"],
        torch.zeros(2, config.max_position_embeddings, half),
        *([] if tied else [state["lm_head.weight"]]),
    ]
    header = struct.pack(
        "<7i",
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        heads,
        kv_heads,
        config.vocab_size if tied else -config.vocab_size,
        config.max_position_embeddings,
    )
    path.write_bytes(header + b"".join(tensor.numpy().tobytes() for tensor in tensors))
