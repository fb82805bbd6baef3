"""Names, layouts and configs of our models in Hugging Face's transformers and in GGUF.

One table for each architecture, read in both directions.  C d_model, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinygpt.components.models.gpt import ROPE_BASE, GPTConfig
from tinygpt.errors import UserError, as_typed
from tinygpt.interfaces import ModelConfig

EMBEDDING, NORM, LINEAR, CONV1D = "embedding", "norm", "linear", "conv1d"


@dataclass(frozen=True)
class Module:
    """A module of ours and the same one elsewhere; {} stands for the number of the block.

    Several names in `hf` or `gguf` share our rows in this order: queries, keys, values.  Our layout
    is that of torch and of GGUF, (out, in); Hugging Face stores a CONV1D transposed, (in, out).
    """

    ours: str
    hf: str
    gguf: str
    kind: str = LINEAR


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model type of transformers: its modules, and the values of our switches that it has."""

    name: str  # model_type in config.json, and general.architecture in GGUF
    hf_class: str
    switches: Mapping[str, tuple[object, ...]]
    modules: tuple[Module, ...]
    head: str  # names of the output matrix if it is not the embedding, in hf
    always_biased: bool  # linear layers and norms always have a bias

    def __str__(self) -> str:
        return self.hf_class


# no other tool has these: each switch with the value that turns it off
_OURS_ALONE: dict[str, tuple[object, ...]] = {
    "window": (None,),
    "sandwich_norm": (False,),
    "embedding_norm": (False,),
    "logit_softcap": (None,),
    "ngram": (1,),
    "x0_shortcut": (False,),
    "value_residual": (False,),
    "value_embeddings": (False,),
}
_GPT2_MODULES = (
    Module("token_embedding", "transformer.wte", "token_embd", EMBEDDING),
    Module("position_embedding", "transformer.wpe", "position_embd", EMBEDDING),
    Module("blocks.{}.attention_norm", "transformer.h.{}.ln_1", "blk.{}.attn_norm", NORM),
    Module("blocks.{}.attention.qkv", "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", CONV1D),
    Module("blocks.{}.attention.out", "transformer.h.{}.attn.c_proj", "blk.{}.attn_output", CONV1D),
    Module("blocks.{}.mlp_norm", "transformer.h.{}.ln_2", "blk.{}.ffn_norm", NORM),
    Module("blocks.{}.mlp.up", "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up", CONV1D),
    Module("blocks.{}.mlp.down", "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down", CONV1D),
    Module("norm", "transformer.ln_f", "output_norm", NORM),
)
_LAYER = "model.layers.{}"
_GATE = (Module("blocks.{}.mlp.gate", f"{_LAYER}.mlp.gate_proj", "blk.{}.ffn_gate"),)
_QK_NORMS = (
    Module("blocks.{}.attention.q_norm", f"{_LAYER}.self_attn.q_norm", "blk.{}.attn_q_norm", NORM),
    Module("blocks.{}.attention.k_norm", f"{_LAYER}.self_attn.k_norm", "blk.{}.attn_k_norm", NORM),
)
_LLAMA_MODULES = (
    Module("token_embedding", "model.embed_tokens", "token_embd", EMBEDDING),
    Module("blocks.{}.attention_norm", f"{_LAYER}.input_layernorm", "blk.{}.attn_norm", NORM),
    Module(
        "blocks.{}.attention.qkv",
        " ".join(f"{_LAYER}.self_attn.{part}_proj" for part in "qkv"),
        " ".join(f"blk.{{}}.attn_{part}" for part in "qkv"),
    ),
    Module("blocks.{}.attention.out", f"{_LAYER}.self_attn.o_proj", "blk.{}.attn_output"),
    Module("blocks.{}.mlp_norm", f"{_LAYER}.post_attention_layernorm", "blk.{}.ffn_norm", NORM),
    Module("blocks.{}.mlp.up", f"{_LAYER}.mlp.up_proj", "blk.{}.ffn_up"),
    Module("blocks.{}.mlp.down", f"{_LAYER}.mlp.down_proj", "blk.{}.ffn_down"),
    Module("norm", "model.norm", "output_norm", NORM),
)
_LLAMA_SWITCHES = {"positions": ("rope",), "norm": ("rmsnorm",)} | _OURS_ALONE


def _like_llama(
    name: str, hf_class: str, modules: tuple[Module, ...], **switches: tuple[object, ...]
) -> Architecture:
    return Architecture(
        name=name,
        hf_class=hf_class,
        switches=_LLAMA_SWITCHES | switches,
        modules=_LLAMA_MODULES + modules,
        head="lm_head",
        always_biased=False,
    )


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="gpt2",
            hf_class="GPT2LMHeadModel",
            switches={
                "positions": ("learned", "none"),  # none: embeddings of zeros
                "norm": ("layernorm",),
                "feedforward": ("gelu", "gelu_erf"),
                "qk_norm": (False,),
                "n_kv_head": (None,),
            }
            | _OURS_ALONE,
            modules=_GPT2_MODULES,
            head="lm_head",
            always_biased=True,
        ),
        _like_llama("llama", "LlamaForCausalLM", _GATE, feedforward=("swiglu",), qk_norm=(False,)),
        _like_llama(
            "qwen3",
            "Qwen3ForCausalLM",
            _GATE + _QK_NORMS,
            feedforward=("swiglu",),
            qk_norm=(True,),
            bias=(False,),
        ),
        _like_llama("arcee", "ArceeForCausalLM", (), feedforward=("relu2",), qk_norm=(False,)),
    )
}


def architecture_of(model: ModelConfig, *, field: str) -> Architecture:
    """The architecture that computes what the model computes.

    Raises UserError, which names the switches that none has; `field` is what asks, as typed.
    """
    if not isinstance(model, GPTConfig):
        raise UserError(
            f"model.name={model.name} has no counterpart in {field}; use to=onnx, which takes any "
            "model, or train another model such as model=llama_small"
        )
    lacking = {
        architecture: _lacking(model, architecture) for architecture in ARCHITECTURES.values()
    }
    nearest, switches = min(lacking.items(), key=lambda item: len(item[1]))
    if switches:
        needed = " ".join(
            f"model.{name}={as_typed(nearest.switches[name][0])}" for name in switches
        )
        raise UserError(
            f"{' '.join(f'model.{n}={as_typed(getattr(model, n))}' for n in switches)} has no "
            f"counterpart in {field}: the nearest, {nearest}, needs {needed}; use to=onnx, which "
            "takes any model, or train such a model"
        )
    return nearest


def _lacking(model: GPTConfig, architecture: Architecture) -> list[str]:
    """The switches whose values the architecture does not have."""
    return [
        name
        for name, values in architecture.switches.items()
        if getattr(model, name) not in values
        and not (name == "n_kv_head" and model.n_kv_head == model.n_head)
    ]


# config.json


_ACTIVATIONS = {
    "gelu": "gelu_new",  # the tanh form
    "gelu_erf": "gelu",
    "relu2": "relu2",
    "swiglu": "silu",
}


def to_hf_config(
    model: GPTConfig, *, vocab_size: int, seq_len: int, eot_id: int, dtype: str = "float32"
) -> dict[str, Any]:
    """The content of config.json."""
    architecture = architecture_of(model, field="to=hf")
    shared = {
        "architectures": [architecture.hf_class],
        "model_type": architecture.name,
        "vocab_size": vocab_size,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "tie_word_embeddings": model.tied,
        "dtype": dtype,
        "initializer_range": 0.02,
        "use_cache": True,
    }
    if architecture.name == "gpt2":
        return shared | {
            "n_positions": seq_len,
            "n_embd": model.d_model,
            "n_layer": model.n_layer,
            "n_head": model.n_head,
            "n_inner": model.ff_width,
            "activation_function": _ACTIVATIONS[model.feedforward],
            "layer_norm_epsilon": model.norm_eps,
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), model.dropout),
        }
    config = shared | {
        "max_position_embeddings": seq_len,
        "hidden_size": model.d_model,
        "intermediate_size": model.ff_width,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_kv_head or model.n_head,
        "head_dim": model.d_model // model.n_head,
        "hidden_act": _ACTIVATIONS[model.feedforward],
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "rope_theta": model.rope_base,  # its place in transformers 4
        "attention_bias": model.bias,
        "attention_dropout": model.dropout,
    }
    return config if architecture.name == "qwen3" else config | {"mlp_bias": model.bias}


@dataclass(frozen=True)
class ReadConfig:
    """What a config.json says about the model."""

    model: GPTConfig  # without dropout, which is a setting of training
    vocab_size: int
    seq_len: int
    architecture: Architecture


def from_hf_config(content: Mapping[str, Any], *, where: str) -> ReadConfig:
    """Read a config.json; raises UserError for what our model cannot compute, naming `where`."""
    name = content.get("model_type")
    if name not in ARCHITECTURES:
        raise UserError(
            f"{where}: model_type {name} is not one of {', '.join(ARCHITECTURES)}, which are those "
            "that tinygpt has"
        )
    try:
        read = _gpt2_config if name == "gpt2" else _llama_config
        model, seq_len = read(content, where)
        vocab_size = int(content.get("vocab_size", _DEFAULTS[name]["vocab_size"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{where} is not a complete config.json: {error}") from None
    return ReadConfig(model, vocab_size, seq_len, ARCHITECTURES[name])


# what transformers takes for a key that is left out
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 50257, "tie_word_embeddings": True, "eps": 1e-5},
    "llama": {"vocab_size": 32000, "tie_word_embeddings": False, "eps": 1e-6},
    "qwen3": {"vocab_size": 151936, "tie_word_embeddings": False, "eps": 1e-6},
    "arcee": {"vocab_size": 32000, "tie_word_embeddings": False, "eps": 1e-5},
}


def _gpt2_config(content: Mapping[str, Any], where: str) -> tuple[GPTConfig, int]:
    forms = ("gelu_new", "gelu_pytorch_tanh", "gelu")
    _need(content, where, "activation_function", "gelu_new", forms)
    _need(content, where, "scale_attn_weights", True, (True,))
    _need(content, where, "scale_attn_by_inverse_layer_idx", False, (False,))
    _need(content, where, "add_cross_attention", False, (False,))
    d_model = int(content.get("n_embd", 768))
    inner = content.get("n_inner")
    model = GPTConfig(
        n_layer=int(content.get("n_layer", 12)),
        n_head=int(content.get("n_head", 12)),
        d_model=d_model,
        feedforward="gelu_erf" if content.get("activation_function") == "gelu" else "gelu",
        d_ff=None if inner in (None, 4 * d_model) else int(inner),
        norm_eps=float(content.get("layer_norm_epsilon", 1e-5)),
        tied=bool(content.get("tie_word_embeddings", True)),
    )
    return model, int(content.get("n_positions", 1024))


def _llama_config(content: Mapping[str, Any], where: str) -> tuple[GPTConfig, int]:
    name = str(content["model_type"])
    relu2 = name == "arcee"
    activation = "relu2" if relu2 else "silu"
    _need(content, where, "hidden_act", activation, (activation,))
    _need(content, where, "use_sliding_window", False, (False,))
    d_model, n_head = int(content["hidden_size"]), int(content["num_attention_heads"])
    default_head = 128 if name == "qwen3" else d_model // n_head
    head = content.get("head_dim") or default_head
    _need({"head_dim": head}, where, "head_dim", head, (d_model // n_head,))
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    _need({"rope_type": kind}, where, "rope_type", "default", ("default",))
    _need(rope, where, "partial_rotary_factor", 1.0, (1.0,))
    n_kv_head = int(content.get("num_key_value_heads") or n_head)
    model = GPTConfig(
        n_layer=int(content["num_hidden_layers"]),
        n_head=n_head,
        n_kv_head=None if n_kv_head == n_head else n_kv_head,
        d_model=d_model,
        qk_norm=name == "qwen3",
        positions="rope",
        rope_base=float(rope.get("rope_theta", content.get("rope_theta", ROPE_BASE))),
        feedforward="relu2" if relu2 else "swiglu",
        d_ff=int(content["intermediate_size"]),
        norm="rmsnorm",
        norm_eps=float(content.get("rms_norm_eps", _DEFAULTS[name]["eps"])),
        bias=bool(content.get("attention_bias", False) or content.get("mlp_bias", False)),
        tied=bool(content.get("tie_word_embeddings", _DEFAULTS[name]["tie_word_embeddings"])),
    )
    if model.qk_norm and model.bias:
        raise UserError(f"{where}: attention_bias true with model_type qwen3 is not supported")
    return model, int(content["max_position_embeddings"])


def _need(
    content: Mapping[str, Any], where: str, key: str, default: object, values: tuple[object, ...]
) -> None:
    value = content.get(key, default)
    if value not in values:
        names = " or ".join(as_typed(choice) for choice in values)
        raise UserError(
            f"{where}: {key} is {as_typed(value)}, and tinygpt's models have only {names}"
        )


# tensors


def _placed(architecture: Architecture, n_layer: int) -> Iterator[Module]:
    """The modules of a model with all blocks, in the order of the network."""
    per_block = [module for module in architecture.modules if "{}" in module.ours]
    before = [module for module in architecture.modules if module.kind == EMBEDDING]
    after = [m for m in architecture.modules if m not in per_block and m not in before]
    yield from before
    for i in range(n_layer):
        for module in per_block:
            ours, hf, gguf = (
                text.replace("{}", str(i)) for text in (module.ours, module.hf, module.gguf)
            )
            yield Module(ours, hf, gguf, module.kind)
    yield from after


def qkv_rows(model: GPTConfig) -> tuple[int, int, int]:
    """Rows of queries, keys and values in `attention.qkv`."""
    of_keys = (model.n_kv_head or model.n_head) * (model.d_model // model.n_head)
    return model.d_model, of_keys, of_keys


def complete_state(
    state: Mapping[str, Tensor], model: GPTConfig, architecture: Architecture, *, seq_len: int
) -> Iterator[tuple[Module, str, Tensor]]:
    """Each module with "weight" or "bias" and its tensor: ours, or what has the same effect.

    An architecture that always has biases gets zeros for those that our model lacks, norms without
    gain get ones, and absent position embeddings zeros.  The untied output matrix comes last.
    """
    widths = {"attention.q_norm": model.d_model // model.n_head}
    widths["attention.k_norm"] = widths["attention.q_norm"]
    for module in _placed(architecture, model.n_layer):
        weight = state.get(f"{module.ours}.weight")
        if weight is None and module.kind == NORM:
            weight = torch.ones(widths.get(module.ours.split(".", 2)[-1], model.d_model))
        elif weight is None and module.ours == "position_embedding":
            weight = torch.zeros(seq_len, model.d_model)
        assert weight is not None, f"the model has no {module.ours}.weight"
        yield module, "weight", weight
        bias = state.get(f"{module.ours}.bias")
        if bias is None and architecture.always_biased and module.kind != EMBEDDING:
            bias = torch.zeros(weight.shape[0])
        if bias is not None:
            yield module, "bias", bias
    if not model.tied:
        yield Module("head", architecture.head, "output"), "weight", state["head.weight"]


def to_hf_tensors(
    state: Mapping[str, Tensor], model: GPTConfig, *, seq_len: int
) -> dict[str, Tensor]:
    """Our state_dict under Hugging Face's names and in its layouts; a tied head is left out."""
    architecture = architecture_of(model, field="to=hf")
    tensors: dict[str, Tensor] = {}
    for module, part, tensor in complete_state(state, model, architecture, seq_len=seq_len):
        names = module.hf.split()
        if module.kind == CONV1D and part == "weight":
            tensor = tensor.t()
        parts = torch.split(tensor, list(qkv_rows(model))) if len(names) > 1 else (tensor,)
        for name, of_name in zip(names, parts, strict=True):
            tensors[f"{name}.{part}"] = of_name.contiguous()
    return tensors


def _has_bias(module: Module, model: GPTConfig) -> bool:
    if module.kind == NORM:
        return model.bias and model.norm == "layernorm"
    return model.bias and module.kind != EMBEDDING


# buffers of older versions, which hold no weights
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def from_hf_tensors(
    tensors: Mapping[str, Tensor], read: ReadConfig, *, where: str
) -> dict[str, Tensor]:
    """Hugging Face's tensors as a state_dict of ours; the inverse of `to_hf_tensors`.

    GPT-2's names may lack the prefix "transformer.", as in the files of openai-community.  Raises
    UserError for a tensor that is missing and for one that the model has no place for.
    """
    model, architecture = read.model, read.architecture
    left = {name for name in tensors if not name.endswith(_BUFFERS)}
    prefix = "transformer."
    bare = architecture.name == "gpt2" and not any(name.startswith(prefix) for name in left)

    def take(name: str) -> Tensor | None:
        name = name.removeprefix(prefix) if bare else name
        left.discard(name)
        return tensors.get(name)

    state: dict[str, Tensor] = {}
    for module in _placed(architecture, model.n_layer):
        names = module.hf.split()
        for part in ("weight", "bias"):
            found = [(name, take(f"{name}.{part}")) for name in names]
            parts = [tensor for _, tensor in found if tensor is not None]
            if part == "bias" and not _has_bias(module, model):
                if parts:
                    raise UserError(f"{where} has {names[0]}.bias, which config.json rules out")
                continue
            if part == "bias" and not parts and not architecture.always_biased:
                # either attention or the feed-forward layer has biases, and ours has both
                weight = state[f"{module.ours}.weight"]
                parts = [torch.zeros(len(weight), dtype=weight.dtype)]
            elif len(parts) < len(names):
                missing = next(name for name, tensor in found if tensor is None)
                raise UserError(f"{where} lacks {missing}.{part}")
            if module.kind == CONV1D and part == "weight":
                parts = [tensor.t() for tensor in parts]
            state[f"{module.ours}.{part}"] = torch.cat(parts).contiguous()
    head = take(f"{architecture.head}.weight")  # a tied one is the embedding once more
    if not model.tied:
        if head is None:
            raise UserError(f"{where} lacks {architecture.head}.weight")
        state["head.weight"] = head
    if left:
        raise UserError(
            f"{where} has {len(left)} tensors without a place in {architecture}, such as "
            f"{min(left)}"
        )
    return state


# rotary position embeddings


def halves_to_pairs(rows: Tensor, n_head: int) -> Tensor:
    """Rows (n_head D, ...) of queries or keys for tools that rotate neighbouring components.

    Ours, like Hugging Face's, pair component i with i + D / 2; the architectures llama and arcee of
    llama.cpp, and llama2.c, pair 2 i with 2 i + 1.
    """
    halves = rows.view(n_head, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def pairs_to_halves(rows: Tensor, n_head: int) -> Tensor:
    """The inverse of `halves_to_pairs`."""
    pairs = rows.view(n_head, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
