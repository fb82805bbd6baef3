"""Find and describe the weights that `init_from=` names."""

from __future__ import annotations

from pathlib import Path

from tinygpt.errors import UserError, nearest
from tinygpt.interchange import own_tokenizer
from tinygpt.interchange.reading.hf import CONFIG, read_hf
from tinygpt.interchange.reading.llama2c import read_llama2c
from tinygpt.interchange.reading.nanogpt import read_nanogpt
from tinygpt.interchange.reading.source import RUN, Source
from tinygpt.records.find import find_run, has_no_checkpoint
from tinygpt.records.saved_config import load_config

_NANOGPT_FILE = "ckpt.pt"
_LLAMA2C_FILE = "model.bin"  # of an export
_TAKEN = (
    f"init_from takes a run folder, a folder of transformers ({CONFIG} and model.safetensors), "
    f"{_NANOGPT_FILE} of nanoGPT, or a .bin of llama2.c"
)
_ZIP = b"PK\x03\x04"  # torch.save begins a file with it


def find_source(text: str, *, output_dir: Path) -> Source:
    """The source that `init_from=text` names; components must be registered.

    Raises UserError for what is no source, and for one that our models cannot hold.
    """
    path = Path(text).expanduser()
    is_run = text == "latest" or any(
        (place / "run.json").is_file() for place in (path, output_dir / text)
    )
    if is_run:
        return _read_run(text, output_dir)
    path = path.absolute()
    if (path / CONFIG).is_file():
        return read_hf(path)
    if (path / _NANOGPT_FILE).is_file():
        return read_nanogpt(path / _NANOGPT_FILE)
    if (path / own_tokenizer.FOLDER).is_dir() and (path / _LLAMA2C_FILE).is_file():
        return read_llama2c(path / _LLAMA2C_FILE)
    if path.is_file():
        return _read_file(text, path)
    if path.is_dir():
        raise UserError(f"init_from={text} holds no weights that can be read; {_TAKEN}")
    raise _missing(text, output_dir)


def _read_file(text: str, path: Path) -> Source:
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if path.suffix in (".pt", ".pth"):
        return read_nanogpt(path)
    if path.suffix == ".bin" and not is_zip:
        return read_llama2c(path)
    if path.suffix == ".bin":
        raise UserError(
            f"init_from={text} may run code when it is loaded, so it is never read; write the "
            "model with transformers' save_pretrained and type init_from=FOLDER"
        )
    if path.name in (CONFIG, "run.json") or path.suffix == ".safetensors":
        raise UserError(f"init_from={text} is one file of a folder; type init_from={path.parent}")
    raise UserError(f"init_from={text} is no kind of file that can be read; {_TAKEN}")


def _missing(text: str, output_dir: Path) -> UserError:
    """The error for a path that does not exist."""
    if text == "scratch":
        return UserError("init_from=scratch: a run begins with random weights if it is left out")
    if text == "resume":
        return UserError("init_from=resume: to go on with a run type resume=RUN instead")
    name = f"openai-community/{text}" if text.startswith("gpt2") else text
    if name.count("/") == 1 and not name.startswith((".", "~", "/", "outputs/")):
        folder = name.rpartition("/")[2]
        return UserError(
            f"init_from={text} is not a folder here, and weights are not downloaded; get them "
            "with\n"
            f"  hf download {name} --include '*.json' '*.safetensors' --local-dir {folder}\n"
            f"and type init_from={folder}"
        )
    nearby = [p.name for p in Path(text).expanduser().absolute().parent.glob("*")]
    runs = [str(p.parent.relative_to(output_dir)) for p in output_dir.glob("**/run.json")]
    match = nearest(text.rpartition("/")[2], [*nearby, *runs])
    hint = ""
    if match:
        place = output_dir if match in runs else Path(text).parent
        hint = f"did you mean init_from={place / match}? "
    return UserError(f"init_from={text} does not exist; {hint}{_TAKEN}")


def _read_run(text: str, output_dir: Path) -> Source:
    path = find_run(
        text, field="init_from", output_dir=output_dir, obstacle=has_no_checkpoint
    ).absolute()
    cfg = load_config(path)
    if not any((path / "checkpoints").glob("step-*")):
        raise UserError(
            f"init_from={text} has no checkpoint yet; go on training it with\n"
            f"  python -m tinygpt.train resume={path}"
        )
    tokenizer = own_tokenizer.loaded_from(path / "tokenizer", cfg.tokenizer)
    return Source(
        path=path,
        kind=RUN,
        model=cfg.model,
        vocab_size=cfg.tokenizer.load(path / "tokenizer").vocab_size,
        seq_len=cfg.trainer.seq_len,
        read=None,
        tokenizer=tokenizer,
    )
