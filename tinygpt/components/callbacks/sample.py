"""Write texts with the model at every evaluation, into the run folder and to the loggers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.errors import UserError, check_range
from tinygpt.generation.engine import generate
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.interfaces import Callback, CallbackConfig, CallbackContext, Metrics
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.training.state import TrainState


@register("callback")
@dataclass
class SampleConfig(SamplingConfig, CallbackConfig):
    """Prompts and sampling settings; random draws are the same at every evaluation."""

    name: str = "sample"
    # "" begins a new document; null: the first words of a validation document
    prompts: list[str] | None = None
    num_samples: int = 1  # texts per prompt

    def __post_init__(self) -> None:
        self.check_sampling("callback.sample.")
        check_range("callback.sample.num_samples", self.num_samples, low=1, high=10_000)
        if self.prompts == []:
            raise UserError(
                "callback.sample.prompts=[] asks for nothing; "
                "type callback.sample.prompts=[''] for texts from their beginning"
            )

    def build(self, context: CallbackContext) -> Sample:
        self.check_vocabulary(context.tokenizer.vocab_size, "callback.sample.")
        return Sample(self, context)


class Sample(Callback):
    """Writes `samples/step-<step>.txt`; leaves the random state of training unchanged."""

    def __init__(self, config: SampleConfig, context: CallbackContext) -> None:
        self.config = config
        self.context = context

    def on_eval(self, state: TrainState, metrics: Metrics) -> str | None:
        tokenizer = self.context.tokenizer
        chosen = self.config.prompts or self.context.prompts
        prompts = [prompt for prompt in chosen for _ in range(self.config.num_samples)]
        prompt_ids = [tokenizer.encode(prompt) for prompt in prompts]
        samples = generate(
            state.model, tokenizer, prompt_ids, config=self.config, seq_len=self.context.seq_len
        )
        texts = [
            # replace: the tokens of a prompt may hold a lone surrogate, which a file cannot
            tokenizer.decode_bytes(ids).decode("utf-8", "replace") + sample.text
            for ids, sample in zip(prompt_ids, samples, strict=True)
        ]
        path = self.context.folder / "samples" / f"step-{state.step:08d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(
                f"--- prompt: {p!r}\n{text}\n\n" for p, text in zip(prompts, texts, strict=True)
            ),
            encoding="utf-8",
        )
        self.context.logger.samples(state.step, texts)
        return None
