"""One ONNX file that makes logits of tokens, for any number of sequences of any length.

It has no cache of keys and values, so it suits scoring more than writing.
"""

import json
import logging
import warnings
from pathlib import Path

import torch

from tinygpt.errors import UserError
from tinygpt.interchange.export.source import GREEDY_TOKENS, Source, logits_of, require
from tinygpt.interchange.export.vocabularies import tokenizer_json

FILE = "model.onnx"
_TOLERANCE = 1e-4  # of logits, as a share of the largest


def write(source: Source, folder: Path) -> None:
    """Write model.onnx, and tokenizer.json if the tokenizer has such a form."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError(
            'to=onnx needs the libraries onnx and onnxscript: pip install "tinygpt[export]"'
        ) from None
    # of full length, so that a limited window hides something: its mask is right for any length
    example, sizes = source.windows(), dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                source.reference,
                (example,),
                folder / FILE,
                dynamo=True,
                dynamic_shapes={"tokens": sizes},
                input_names=["tokens"],
                output_names=["logits"],
                verbose=False,
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UserError(f"to=onnx: torch.onnx cannot write this model: {reason}") from None
    try:
        content = tokenizer_json(source.tokenizer, field="to=onnx")
    except UserError:
        return
    (folder / "tokenizer.json").write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def check(source: Source, folder: Path) -> list[str]:
    """Run the file with onnxruntime at other shapes than the example's; returns what to report."""
    try:
        import onnxruntime
    except ImportError:
        return ['not checked by onnxruntime: pip install "tinygpt[export]"']
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / FILE, options, providers=["CPUExecutionProvider"]
    )
    windows, difference, largest = source.windows(), 0.0, 0.0
    shapes = [(2, source.seq_len), (1, 1), (1, max(1, source.seq_len // 3))]
    for batch, time in shapes:
        tokens = windows[:batch, :time]
        ours = logits_of(source.reference, tokens).numpy()
        (theirs,) = session.run(None, {"tokens": tokens.numpy()})
        difference = max(difference, float(abs(theirs - ours).max()))
        largest = max(largest, float(abs(ours).max()))
    limit = _TOLERANCE * max(1.0, largest)
    require(difference <= limit, source, f"logits of onnxruntime differ by {difference:.1e}")
    same, prompts = 0, source.prompt_ids()
    for ids in prompts:
        known = list(ids)
        for _ in range(min(GREEDY_TOKENS, source.seq_len - len(ids))):
            (logits,) = session.run(None, {"tokens": torch.tensor([known]).numpy()})
            known.append(int(logits[0, -1].argmax()))
            if known[-1] == source.tokenizer.eot_id:
                break
        new = [i for i in known[len(ids) :] if i != source.tokenizer.eot_id]
        gap = source.shortfall(ids, new)
        require(gap <= 2 * limit, source, f"greedy text of onnxruntime is {gap:.1e} less likely")
        same += new == source.greedy(ids)
    return [
        f"onnxruntime {onnxruntime.__version__} runs it at the shapes "
        + ", ".join(f"{batch} x {time}" for batch, time in shapes),
        f"logits differ by at most {difference:.1e}, the largest is {largest:.1f}",
        f"greedy text equal for {same} of {len(prompts)} prompts",
    ]
