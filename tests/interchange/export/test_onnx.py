"""Exports for onnxruntime, run by it."""

import re
from pathlib import Path

import pytest

from tests.interchange.export.models import source
from tinygpt.interchange.export.write import export


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "switches"),
    [
        ("nano", ()),
        ("qwen3_nano", ()),
        ("modern_nano", ()),
        ("nano", ("model.window=8", "model.ngram=3", "model.sandwich_norm=true")),
    ],
)
def test_onnxruntime_computes_the_same_at_any_shape(
    model: str, switches: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported = source(tmp_path / "run", model, *switches, tokenizer="bpe")
    done = export(exported, to="onnx", out=tmp_path / "out")
    shapes, logits, greedy = done.checks
    assert shapes.endswith("2 x 48, 1 x 1, 1 x 16")
    assert float(re.findall(r"at most (\S+),", logits)[0]) < 1e-4
    assert greedy == "greedy text equal for 3 of 3 prompts"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
