"""The settings of an export, checked before torch is imported."""

from dataclasses import dataclass

from tinygpt.errors import UserError, check_choice, check_path

FORMATS = ("hf", "gguf", "llama2c", "onnx")
DTYPES = ("fp32", "fp16")


@dataclass
class ExportConfig:
    """Which format, and where to."""

    to: str  # hf, gguf, llama2c or onnx
    out: str | None = None  # a folder; null is exports/FORMAT in the run folder
    dtype: str = "fp32"  # of the weights; fp16 (hf, gguf) halves the file and rounds them
    license: str = "unknown"  # of the model card that to=hf writes

    def __post_init__(self) -> None:
        check_choice("to", self.to, FORMATS)
        check_choice("dtype", self.dtype, DTYPES)
        if self.to in ("llama2c", "onnx") and self.dtype != "fp32":
            raise UserError(f"dtype={self.dtype} is not offered for to={self.to}; use dtype=fp32")
        check_path("out", self.out)
        if not self.license.strip() or "\n" in self.license:
            raise UserError(f"license={self.license!r} must be one line, such as license=mit")
        if self.license != "unknown" and self.to != "hf":
            raise UserError(
                f"license={self.license} has no effect with to={self.to}: only to=hf writes a "
                "model card; leave it out"
            )
