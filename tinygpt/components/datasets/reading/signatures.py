"""Refuse files that are not UTF-8 text although their name says so: UTF-16, archives, binaries."""

import codecs
import shlex
from pathlib import Path

from tinygpt.components.datasets.reading.compressed import opened, split_ending
from tinygpt.errors import UserError

_HEAD = 4096  # bytes
_NUL_SHARE = 0.1  # of the head; UTF-16 of English has a half, a stray NUL is left to on_bad_text
_UTF_16_SHARE = 0.9  # of the NULs at even places, or at odd ones
_BOMS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# first bytes -> the format, and the ending that it is read by
_FORMATS = {
    b"PK\x03\x04": ("a zip archive, as .docx and .epub are", None),
    b"\x1f\x8b": ("compressed by gzip", ".gz"),
    b"BZh": ("compressed by bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("compressed by xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", ".zst"),
    b"PAR1": ("a parquet file", ".parquet"),
    b"%PDF-": ("a PDF", None),
}


def check_is_text(path: Path) -> None:
    """Raise UserError if the first bytes are of another format, whatever dataset.on_bad_text is."""
    with opened(path) as file:
        head = file.read(_HEAD)
    for start, (kind, ending) in _FORMATS.items():
        # BZh alone may begin a text; in a file, the magic number of a block follows
        if head.startswith(start) and (start != b"BZh" or head[4:10] == b"1AY&SY"):
            raise _other_format(path, kind, ending)
    for bom, encoding in _BOMS.items():
        if head.startswith(bom):
            raise _other_encoding(path, encoding)
    nuls = head.count(0)
    if nuls <= _NUL_SHARE * len(head):
        return
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if head[first::2].count(0) >= _UTF_16_SHARE * nuls:
            raise _other_encoding(path, encoding)
    raise UserError(f"{path} is not text: it has NUL bytes; leave it out")


def _other_encoding(path: Path, encoding: str) -> UserError:
    old, new = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    if split_ending(path)[1]:
        return UserError(f"{path} is {encoding}; decompress it and convert it to UTF-8")
    return UserError(
        f"{path} is {encoding}; convert it to UTF-8 with\n"
        f"  iconv -f {encoding} -t UTF-8 {old} > {new} && mv {new} {old}"
    )


def _other_format(path: Path, kind: str, ending: str | None) -> UserError:
    known = path.with_suffix(".parquet") if ending == ".parquet" else Path(f"{path}{ending}")
    way_out = f"name it {known.name}" if ending else "leave it out, or extract its text"
    return UserError(f"{path} is {kind}, not plain text; {way_out}")
