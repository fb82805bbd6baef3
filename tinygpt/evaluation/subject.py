"""What an evaluation suite measures: a trained model with the text it was held out from.

B texts, T tokens, V vocabulary; scores are in nats.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from tinygpt.corpus.prepared import Prepared, prepare
from tinygpt.errors import UserError
from tinygpt.generation.engine import Event, FinishedEvent, generate
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.records.read import read_run
from tinygpt.training.batches import eval_batches
from tinygpt.training.losses import ModelLoss, bits_per_byte, mean_nats
from tinygpt.training.trained import load_trained
from tinygpt.training.validation import Validation

if TYPE_CHECKING:
    from tinygpt.interfaces import Split, Tokenizer
    from tinygpt.language_model import LanguageModel

Nats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
REPORT_EVERY_S = 5.0
LOGITS_AT_ONCE = 1 << 24  # float32 numbers of logits in memory: 64 MB


class Scorer:
    """Scores text with a model, in fp32, whatever shares a batch with it."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, seq_len: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.seq_len = seq_len  # the most tokens that a position can see, itself included

    def stream_nats(self, tokens: Any, *, batch_size: int | None = None) -> Nats:
        """Nats of each token but the first of a stream, in consecutive windows of seq_len."""
        size = batch_size or self._rows(self.seq_len)
        found: list[Nats] = []
        for batch in eval_batches(tokens, seq_len=self.seq_len, batch_size=size):
            found.append(self._window_scores(torch.from_numpy(batch))[0].flatten())
            self.advance(sum(map(len, found)), len(tokens) - 1, "tokens")
        return np.concatenate(found) if found else np.zeros(0)

    def text_nats(self, texts: Sequence[str], *, batch_size: int | None = None) -> list[Nats]:
        """Nats of each token of each text, which is scored as a document of its own.

        A text longer than the context window is cut into consecutive windows, as in validation.
        Texts of similar length share a batch; the result does not depend on which.
        """
        eot = self.tokenizer.eot_id
        return self.token_nats(
            [[eot, *self.tokenizer.encode(text)] for text in texts], batch_size=batch_size
        )

    def token_nats(
        self, encoded: Sequence[Sequence[int]], *, batch_size: int | None = None
    ) -> list[Nats]:
        """Nats of each token but the first of each sequence, as `text_nats`."""
        return [nats for nats, _ in self.token_scores(encoded, batch_size=batch_size)]

    def token_scores(
        self, encoded: Sequence[Sequence[int]], *, batch_size: int | None = None
    ) -> list[tuple[Nats, Mask]]:
        """Of each token but the first: its nats, and whether no token is likelier."""
        eot, seq_len = self.tokenizer.eot_id, self.seq_len
        # sequences longer than a window are windows that follow each other
        pieces = [
            (number, np.asarray(ids[start : start + seq_len + 1], np.int64))
            for number, ids in enumerate(encoded)
            for start in range(0, max(1, len(ids) - 1), seq_len)
        ]
        scores: list[tuple[Nats, Mask]] = [(np.zeros(0), np.zeros(0, np.bool_))] * len(pieces)
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][1]))
        while order:
            self.advance(len(pieces) - len(order), len(pieces), "windows")
            longest = len(pieces[order[-1]][1])
            take = min(len(order), batch_size or self._rows(longest))
            batch, order = order[-take:], order[:-take]
            tokens = torch.full((take, longest), eot)
            for row, i in enumerate(batch):  # a causal model does not see what comes after
                tokens[row, : len(pieces[i][1])] = torch.from_numpy(pieces[i][1])
            if longest > 1:
                nats, likeliest = self._window_scores(tokens)
                for row, i in enumerate(batch):
                    length = len(pieces[i][1]) - 1
                    scores[i] = nats[row, :length], likeliest[row, :length]
        joined: list[tuple[list[Nats], list[Mask]]] = [([], []) for _ in encoded]
        for (number, _), (nats, likeliest) in zip(pieces, scores, strict=True):
            joined[number][0].append(nats)
            joined[number][1].append(likeliest)
        return [(np.concatenate(nats), np.concatenate(top)) for nats, top in joined]

    def advance(self, done: int, total: int, unit: str) -> None:
        """Called before and after parts of long work; does nothing here."""

    def _rows(self, length: int) -> int:
        return max(1, LOGITS_AT_ONCE // (max(1, length) * self.tokenizer.vocab_size))

    def _window_scores(self, tokens: torch.Tensor) -> tuple[Nats, Mask]:
        """Tokens (B, T + 1) to nats of all but the first, (B, T), and whether each is likeliest."""
        tokens = tokens.to(next(self.model.parameters()).device)
        with torch.no_grad():
            logits = self.model(tokens[:, :-1]).float()
        targets = tokens[:, 1:]
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        nats = nats.view_as(targets)
        likeliest = logits.gather(-1, targets[..., None])[..., 0] >= logits.amax(-1)
        return nats.cpu().numpy().astype(np.float64), likeliest.cpu().numpy()


class Subject(Scorer):
    """A run's model, tokenizer and held-out text.

    Scores are computed in fp32, so that they do not depend on which texts share a batch; only
    `pinned_bpb` computes in the precision of the run, as training did.
    """

    def __init__(
        self,
        run: Path,
        *,
        checkpoint: str = "best",
        device: str = "auto",
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self.run, self.say = run, say
        self._told_at = time.monotonic()
        self.record = read_run(run)
        self.trained = load_trained(
            run, checkpoint=checkpoint, device=device, own_precision=True, warn=warn
        )
        self.cfg = self.trained.cfg
        seq_len = self.cfg.trainer.seq_len
        super().__init__(self.trained.model, self.trained.tokenizer, seq_len=seq_len)

    def advance(self, done: int, total: int, unit: str) -> None:
        """Say how much is done, every few seconds."""
        now = time.monotonic()
        if 0 < done < total and now - self._told_at > REPORT_EVERY_S:
            self.say(f"  {done:,} of {total:,} {unit}")
            self._told_at = now

    def weights_sha256(self) -> str:
        """The sha256 of the checkpoint's weights, as the checkpoint lists it."""
        sums = json.loads((self.trained.checkpoint / "checksums.json").read_text())
        return str(sums["model.safetensors"])

    @cached_property
    def prepared(self) -> Prepared:
        """The run's tokens, prepared again if they are gone; raises UserError for other text."""
        prepared = prepare(self.cfg, self.say)
        known = (self.record.derived.get("validation") or {}).get("text_sha256")
        if known not in (None, self._pinned(prepared).checksum):
            raise UserError(
                f"run={self.run} was validated on another text than its dataset has now; "
                "restore that dataset, or evaluate a run that was trained on this one"
            )
        return prepared

    @cached_property
    def pinned(self) -> Validation:
        """The part of the validation split that training evaluates."""
        return self._pinned(self.prepared)

    def _pinned(self, prepared: Prepared) -> Validation:
        return Validation(
            prepared,
            max_bytes=self.cfg.trainer.eval_bytes,
            window=self.cfg.dataset.window,
        )

    def text_sha256(self, *, documents: int | None = None) -> dict[str, str]:
        """Hashes of the first documents of the validation split, or of all and the pinned ones."""
        n = len(self.prepared.document_ends("validation"))
        first = self.prepared.text_checksum("validation", min(n, documents or n))
        if documents is not None:
            return {"text_sha256": first}
        return {"text_sha256": first, "pinned_sha256": self.pinned.checksum}

    def documents(self, split: Split = "validation", *, limit: int | None = None) -> list[str]:
        """The texts of a split from its beginning, up to `limit` documents."""
        return list(self.prepared.documents(split, limit=limit))

    def pinned_bpb(self) -> float:
        """val/bpb as training computes it: same windows, batches and precision, so equal bits."""
        size = self.record.derived.get("micro_batch_size") or 1
        loss, runtime = ModelLoss(self.model), self.trained.runtime
        masks = self.cfg.dataset.mask_documents
        nats = 0.0
        with torch.no_grad():
            for batch in self.pinned.batches(seq_len=self.seq_len, batch_size=int(size)):
                tokens = runtime.to_device(torch.from_numpy(batch))
                mean = mean_nats(
                    loss, tokens, runtime, masked_eot=self.tokenizer.eot_id if masks else None
                )
                nats += mean.item() * tokens[:, 1:].numel()
        return bits_per_byte(nats, self.pinned.utf8_bytes)

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[int]]:
        """New tokens for each prompt."""
        done = 0

        def watch(index: int, event: Event) -> None:
            nonlocal done
            done += isinstance(event, FinishedEvent)
            self.advance(done, len(prompts), "texts written")

        samples = generate(
            self.model,
            self.tokenizer,
            [self.tokenizer.encode(prompt) for prompt in prompts],
            config=sampling,
            seq_len=self.seq_len,
            on_event=watch,
        )
        return [sample.tokens for sample in samples]
