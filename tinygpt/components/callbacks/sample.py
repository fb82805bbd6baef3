"""Write texts with the model at every evaluation, into the run folder and to the loggers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.errors import UserError, check_range
from tinygpt.generation.sampling import SamplingConfig, generate
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
    num_samples: int = 1  # texts per prompt; each costs max_new_tokens forwards

    def __post_init__(self) -> None:
        self.check_sampling("callback.sample.")
        check_range("callback.sample.num_samples", self.num_samples, low=1, high=10_000)
        if self.prompts == []:
            raise UserError(
                "callback.sample.prompts=[] asks for nothing; "
                "type callback.sample.prompts=[''] for texts from their beginning"
            )

    def build(self, context: CallbackContext) -> Sample:
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
            state.model,
            prompt_ids,
            config=self.config,
            seq_len=self.context.seq_len,
            eot_id=tokenizer.eot_id,
        )
        texts = [
            # replace: tokenizer.decode may give a lone surrogate, which a file cannot hold
            tokenizer.decode_bytes(ids + new).decode("utf-8", "replace")
            for ids, new in zip(prompt_ids, samples, strict=True)
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
