"""One GGUF file that llama.cpp loads, with the tokenizer inside.

llama.cpp computes GPT-2's GELU from a table in half precision, so its log-probabilities agree to
about 1e-2 with ours for GPT-2, and to 1e-4 for Llama, Qwen3 and Arcee.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.tokenizers.bpe import LEARNED, SPACE, BPETokenizer
from tinygpt.components.tokenizers.byte import ByteTokenizer
from tinygpt.components.tokenizers.char import FIRST_CHARACTER, CharTokenizer
from tinygpt.components.tokenizers.hf import BYTE_CHARACTERS, HFTokenizer
from tinygpt.errors import UserError
from tinygpt.interchange.architectures import (
    Architecture,
    architecture_of,
    complete_state,
    halves_to_pairs,
    qkv_rows,
)
from tinygpt.interchange.export.llama_cpp import LlamaCpp
from tinygpt.interchange.export.source import GREEDY_TOKENS, Source, logits_of, require
from tinygpt.interchange.export.vocabularies import END_OF_TEXT, unsupported

FILE = "model.gguf"
# of log-probabilities: llama.cpp multiplies fp16 matrices by activations in fp16
_TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
_TOLERANCE_GPT2 = {"fp32": 2e-2, "fp16": 5e-2}
_FILE_TYPE = {"fp32": 0, "fp16": 1}  # LlamaFileType: ALL_F32, MOSTLY_F16
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6  # token types of GGUF


def write(source: Source, folder: Path) -> None:
    """Write model.gguf; raises UserError for a model or tokenizer that llama.cpp lacks."""
    architecture = _architecture(source)
    write_file(folder / FILE, keys(source, architecture), tensors(source, architecture))


def write_file(
    path: Path, keys: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.floating[Any]]]
) -> None:
    """Write keys and tensors with the library gguf."""
    try:
        import gguf
    except ImportError:
        raise UserError('to=gguf needs the library gguf: pip install "tinygpt[export]"') from None
    writer = gguf.GGUFWriter(path, keys["general.architecture"])
    for key, value in keys.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(source: Source) -> Architecture:
    architecture = architecture_of(source.cfg.model, field="to=gguf")
    model = source.cfg.model
    assert isinstance(model, GPTConfig)
    if model.feedforward == "gelu_erf":
        raise UserError(
            "model.feedforward=gelu_erf has no counterpart in to=gguf: llama.cpp computes GPT-2 "
            "with the form of GELU that model.feedforward=gelu has; use to=hf"
        )
    return architecture


def keys(source: Source, architecture: Architecture) -> dict[str, Any]:
    """Every key of the file: the sizes of the model, then the tokenizer."""
    model, prefix = source.cfg.model, architecture.name
    assert isinstance(model, GPTConfig)
    sizes: dict[str, Any] = {
        "context_length": source.seq_len,
        "embedding_length": model.d_model,
        "block_count": model.n_layer,
        "feed_forward_length": model.ff_width,
        "attention.head_count": model.n_head,
    }
    if prefix == "gpt2":
        sizes["attention.layer_norm_epsilon"] = float(model.norm_eps)
    else:
        d_head = model.d_model // model.n_head
        sizes |= {
            "attention.head_count_kv": model.n_kv_head or model.n_head,
            "attention.layer_norm_rms_epsilon": float(model.norm_eps),
            "attention.key_length": d_head,
            "attention.value_length": d_head,
            "rope.freq_base": float(model.rope_base),
            "rope.dimension_count": d_head,
        }
    return {
        "general.architecture": prefix,
        "general.name": source.run.name,
        "general.file_type": _FILE_TYPE[source.dtype],
        **{f"{prefix}.{name}": value for name, value in sizes.items()},
        f"{prefix}.vocab_size": source.tokenizer.vocab_size,
        **{f"tokenizer.ggml.{name}": value for name, value in _vocabulary(source).items()},
    }


def tensors(source: Source, architecture: Architecture) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """Tensors under GGUF's names, (out, in); a tied output matrix is left out.

    With fp16 matrices are rounded; vectors and positions stay fp32, as llama.cpp wants them.
    """
    model = source.cfg.model
    assert isinstance(model, GPTConfig)
    out: dict[str, npt.NDArray[np.floating[Any]]] = {}
    pairs = architecture.name in ("llama", "arcee")
    state = source.reference.state_dict()
    for module, part, tensor in complete_state(state, model, architecture, seq_len=source.seq_len):
        names = module.gguf.split()
        parts = list(torch.split(tensor, list(qkv_rows(model)))) if len(names) > 1 else [tensor]
        if len(names) > 1 and pairs:
            parts[0] = halves_to_pairs(parts[0], model.n_head)
            parts[1] = halves_to_pairs(parts[1], model.n_kv_head or model.n_head)
        half = source.dtype == "fp16" and tensor.dim() > 1 and module.gguf != "position_embd"
        for name, of_name in zip(names, parts, strict=True):
            array = of_name.contiguous().numpy()
            out[f"{name}.{part}"] = array.astype(np.float16) if half else array.astype(np.float32)
    return out


def check(source: Source, folder: Path) -> list[str]:
    """Read the file back, and run it in llama.cpp; returns what to report.

    Raises UserError if tensors, ids, log-probabilities or greedy text differ.
    """
    import gguf

    path = folder / FILE
    expected = tensors(source, _architecture(source))
    read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    same = read.keys() == expected.keys() and all(
        np.array_equal(read[name], tensor) for name, tensor in expected.items()
    )
    require(same, source, "the tensors read back are others")
    lines = [f"{len(read)} tensors read back by gguf are equal"]
    try:
        llama_cpp = LlamaCpp(path, n_ctx=source.seq_len)
    except ImportError:
        return [*lines, "not checked by llama.cpp: pip install xllamacpp"]
    except RuntimeError as error:
        require(False, source, f"llama.cpp refuses the file ({error})")
    return lines + _compare(source, llama_cpp)


def _has_ids_there(source: Source, text: str) -> bool:
    """Whether llama.cpp can give the text our ids.

    A vocabulary of sentencepiece's kind has one name for a space and U+2581, and ends a text at
    NUL; for char it knows only characters of the vocabulary.
    """
    if isinstance(source.tokenizer, CharTokenizer):
        return not source.tokenizer.unknown_characters(text) and not set("\0\u2581") & set(text)
    return not isinstance(source.tokenizer, BPETokenizer) or not set("\0\u2581") & set(text)


def _left_out(source: Source, n: int) -> str:
    if not n:
        return ""
    unknown = isinstance(source.tokenizer, CharTokenizer)
    of_char = " or characters outside the vocabulary" if unknown else ""
    return f"; {n} more hold U+2581, NUL{of_char}, which it reads otherwise"


def _compare(source: Source, llama_cpp: LlamaCpp) -> list[str]:
    tokenizer = source.tokenizer
    texts = [text for text in source.texts() if _has_ids_there(source, text)]
    for text in texts:
        ids = [tokenizer.eot_id, *tokenizer.encode(text)]
        require(llama_cpp.ids(text) == ids, source, f"llama.cpp gives other ids for {text!r}")
    is_gpt2 = _architecture(source).name == "gpt2"
    limit = (_TOLERANCE_GPT2 if is_gpt2 else _TOLERANCE)[source.dtype]
    differences: list[float] = []
    same, prompts, windows = 0, source.prompt_ids(), source.windows().tolist()
    for ids in [*prompts, *(window[:n] for window in windows for n in (3, 10, source.seq_len - 1))]:
        ours = logits_of(source.reference, torch.tensor([ids]))[0, -1].log_softmax(-1)
        theirs = llama_cpp.log_probabilities(ids, 50)
        differences += [abs(value - float(ours[i])) for i, value in theirs.items()]
    require(bool(differences), source, "llama.cpp ends every text at once")
    difference = max(differences)
    for ids in prompts:
        n = min(GREEDY_TOKENS, source.seq_len - len(ids))
        new = [i for i in llama_cpp.complete(ids, n)["tokens"] if i != tokenizer.eot_id]
        gap = source.shortfall(ids, new)
        require(gap <= 2 * limit, source, f"greedy text of llama.cpp is {gap:.1e} less likely")
        same += new == source.greedy(ids)
    require(
        difference <= limit, source, f"log-probabilities of llama.cpp differ by {difference:.1e}"
    )
    return [
        f"llama.cpp loads it; ids equal for {len(texts)} of {len(texts)} texts"
        + _left_out(source, len(source.texts()) - len(texts)),
        f"log-probabilities of the 50 likeliest tokens differ by at most {difference:.1e}",
        f"greedy text equal for {same} of {len(prompts)} prompts",
    ]


# the tokenizer


def _vocabulary(source: Source) -> dict[str, Any]:
    tokenizer = source.tokenizer
    if isinstance(tokenizer, BPETokenizer):
        vocabulary = _bpe(tokenizer)
    elif isinstance(tokenizer, CharTokenizer):
        vocabulary = _char(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        tokens = [END_OF_TEXT, *BYTE_CHARACTERS]
        # a list of merges must not be empty; no text in UTF-8 has the byte FF
        vocabulary = _byte_level(tokens, ["\u00ff \u00ff"], eot_id=0)
    elif isinstance(tokenizer, HFTokenizer):
        vocabulary = _hf(tokenizer)
    else:
        raise unsupported(tokenizer, field="to=gguf")
    return vocabulary | {
        "bos_token_id": tokenizer.eot_id,
        "eos_token_id": tokenizer.eot_id,
        "padding_token_id": tokenizer.eot_id,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": False,
        "remove_extra_whitespaces": False,
    }


def _bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    tokens = [END_OF_TEXT, *tokenizer.pieces[1:]]
    return {
        "model": "llama",  # sentencepiece's BPE: of pairs that make a piece the best score first
        "tokens": tokens,
        "scores": [float(min(0, LEARNED - 1 - i)) for i in range(len(tokens))],
        "token_type": [_CONTROL, _USER_DEFINED, *[_BYTE] * 256, *[_NORMAL] * len(tokens)][
            : len(tokens)
        ],
        "unknown_token_id": tokenizer.eot_id,
    }


def _char(tokenizer: CharTokenizer) -> dict[str, Any]:
    names = {" ": SPACE, SPACE: "<U+2581>"}  # llama.cpp writes spaces so before it looks them up
    nibbles = [f"<half byte {value:X}>" for value in range(FIRST_CHARACTER - 1)]
    characters = [names.get(c, c) for c in tokenizer.characters]
    characters = [c if not "\ud800" <= c <= "\udfff" else f"<U+{ord(c):X}>" for c in characters]
    tokens = [END_OF_TEXT, *nibbles, *characters]
    types = [_CONTROL, *[_UNUSED] * len(nibbles)]
    types += [_NORMAL if len(c) == 1 else _UNUSED for c in characters]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * len(tokens),
        "token_type": types,
        "unknown_token_id": tokenizer.eot_id,
    }


def _byte_level(tokens: list[str], merges: list[str], *, eot_id: int) -> dict[str, Any]:
    types = [_NORMAL] * len(tokens)
    types[eot_id] = _CONTROL
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": types,
        "merges": merges,
    }


def _hf(tokenizer: HFTokenizer) -> dict[str, Any]:
    """A byte-level BPE that splits words as GPT-2 does; others need a name in llama.cpp."""
    settings = tokenizer.settings
    model, before = settings["model"], settings.get("pre_tokenizer") or {}
    is_gpt2 = before.get("type") == "ByteLevel" and before.get("use_regex", True)
    if model.get("type") != "BPE" or not is_gpt2 or settings.get("normalizer"):
        raise UserError(
            "tokenizer=hf has no counterpart in to=gguf unless it splits words as GPT-2's does; "
            "use to=hf, and convert_hf_to_gguf.py of llama.cpp, which knows other tokenizers"
        )
    tokens = [f"<unused {i}>" for i in range(tokenizer.vocab_size)]
    for token, i in model["vocab"].items():
        tokens[i] = token
    vocabulary = _byte_level(tokens, [], eot_id=tokenizer.eot_id)
    for added in settings.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        vocabulary["token_type"][added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    pairs = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
    return vocabulary | {"merges": list(pairs)}
