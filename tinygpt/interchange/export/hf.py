"""A folder that `from_pretrained` of Hugging Face's transformers loads without our code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.files import write_atomically
from tinygpt.interchange import own_tokenizer
from tinygpt.interchange.architectures import architecture_of, to_hf_config, to_hf_tensors
from tinygpt.interchange.export.card import model_card
from tinygpt.interchange.export.source import DTYPES, GREEDY_TOKENS, Source, logits_of, require
from tinygpt.interchange.export.vocabularies import tokenizer_config, tokenizer_json

_DTYPE_NAMES = {"fp32": "float32", "fp16": "float16"}
_TOLERANCE = 1e-4  # of logits, as a share of the largest


def write(source: Source, folder: Path) -> None:
    """Write all files; raises UserError for what transformers has no class or tokenizer for."""
    model, tokenizer = source.cfg.model, source.tokenizer
    architecture = architecture_of(model, field="to=hf")
    assert isinstance(model, GPTConfig)
    eot_id = tokenizer.eot_id
    config = to_hf_config(
        model,
        vocab_size=tokenizer.vocab_size,
        seq_len=source.seq_len,
        eot_id=eot_id,
        dtype=_DTYPE_NAMES[source.dtype],
    )
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot_id)
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": ids,
        "tokenizer.json": tokenizer_json(tokenizer, field="to=hf"),
        "tokenizer_config.json": tokenizer_config(tokenizer, seq_len=source.seq_len),
    }
    for name, content in files.items():
        write_atomically(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    state = source.reference.state_dict()
    tensors = {
        name: tensor.to(DTYPES[source.dtype]).clone()
        for name, tensor in to_hf_tensors(state, model, seq_len=source.seq_len).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    own_tokenizer.keep(tokenizer, folder)
    write_atomically(folder / "README.md", model_card(source, architecture))


def check(source: Source, folder: Path) -> list[str]:
    """Load the folder with transformers and compare; returns what to report.

    Raises UserError if ids, logits or greedy text differ.
    """
    try:
        import transformers
    except ImportError:
        return ['not checked by transformers: pip install "tinygpt[export]"']
    with _quiet(transformers):
        return _compare(source, folder, transformers)


def _compare(source: Source, folder: Path, transformers: Any) -> list[str]:
    options = {"local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval().float()
    texts = source.texts()
    for text in texts:
        ids = source.tokenizer.encode(text)
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        require(theirs == ids, source, f"AutoTokenizer gives other ids for {text!r}")
        require(tokenizer.decode(ids) == text, source, f"AutoTokenizer does not decode {text!r}")
    tokens = source.windows()
    ours = logits_of(source.reference, tokens)
    with torch.no_grad():
        difference = float((model(tokens).logits - ours).abs().max())
    largest = float(ours.abs().max())
    limit = _TOLERANCE * max(1.0, largest)
    require(difference <= limit, source, f"logits of transformers differ by {difference:.1e}")
    same, prompts = 0, source.prompt_ids()
    for ids in prompts:
        new = _greedy(model, ids, min(GREEDY_TOKENS, source.seq_len - len(ids)))
        gap = source.shortfall(ids, new)
        require(gap <= 2 * limit, source, f"greedy text of transformers is {gap:.1e} less likely")
        same += [i for i in new if i != source.tokenizer.eot_id] == source.greedy(ids)
    return [
        f"transformers {transformers.__version__} loads it as {type(model).__name__}",
        f"ids equal for {len(texts)} of {len(texts)} texts, which decode to themselves",
        f"logits differ by at most {difference:.1e}, the largest is {largest:.1f}",
        f"greedy text equal for {same} of {len(prompts)} prompts",
    ]


def _greedy(model: Any, ids: list[int], n: int) -> list[int]:
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=n,
        )
    new: list[int] = out[0, len(ids) :].tolist()
    return new


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no warnings: texts may be longer than the context window here."""
    logging = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
