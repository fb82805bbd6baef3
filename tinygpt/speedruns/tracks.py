"""Tracks: the text of each, how it is validated, and the loss to reach."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tinygpt import registry
from tinygpt.config import overrides
from tinygpt.config.overrides import OF_TRAINING
from tinygpt.errors import UserError

# settings of a run that its track decides, and why
FIXED = {
    "dataset": "the track's text is the same for all",
    "seed": "seeds= of the command sets it",
    "init_from": "a run begins with random weights",
    "trainer.eval_bytes": "the whole validation split is evaluated",
    "tokenizer.path": "a vocabulary is learned within the time, from the track's train split",
    **dict.fromkeys(("output_dir", "cache_dir"), "the command chooses the folders"),
    **dict.fromkeys(("name", "tags", "notes"), "the entry's name, idea and author say this"),
    **dict.fromkeys(("logger", "callback"), "the clock measures training alone"),
    "components": "files of the entry are listed under its own `components:`",
    "config_file": "an entry is complete in its file",
    **dict.fromkeys(("resume", "until"), "a run is timed from its start to its end"),
}
_CHOSEN = {  # what the command types for the fields above; an experiment may have set them
    "init_from": "null",
    "trainer.eval_bytes": "null",
    "name": "null",
    "logger": "[]",
    "callback": "[]",
}


@dataclass(frozen=True)
class TextFile:
    """The file that holds the text of a track."""

    url: str
    sha256: str
    needed: bool = True  # else the dataset can download the text by itself


@dataclass(frozen=True)
class Track:
    """One text, one protocol, one loss.

    A checksum is the sha256 of a split's documents as UTF-8, a NUL byte after each.
    """

    name: str
    about: str  # one line
    dataset: Mapping[str, Any]  # `name` and the fields that differ from their defaults
    per_character: bool  # whether the loss is in nats per character; else in bits per byte
    target: float  # the largest loss that counts
    train_sha256: str
    validation_sha256: str
    shared_ngrams: float  # the largest share of validation's 13-word n-grams that train may hold
    file: TextFile | None = None  # a copy of it is what text= names; None: there is none

    @property
    def unit(self) -> str:
        """The unit of the loss."""
        return "nats per character" if self.per_character else "bits per byte"

    def loss(self, bits_per_byte: float, *, characters: int, utf8_bytes: int) -> float:
        """The loss of the track from that of a run, of a text with these sizes."""
        if not self.per_character:
            return bits_per_byte
        return bits_per_byte * math.log(2) * utf8_bytes / characters

    def check_text(self, text: Path | None) -> None:
        """Raise UserError if `text` is not the local copy that this track needs, or needs none."""
        if self.file is None:
            if text is not None:
                raise UserError(
                    f"text={text} would be ignored: track={self.name} generates its text; "
                    "leave it out"
                )
            return
        if text is None:
            if not self.file.needed:
                return
            wrong = "text= is missing"
        elif not text.is_file():
            wrong = f"text={text} is not a file"
        elif (found := _sha256(text)) != self.file.sha256:
            wrong = f"text={text} is another text: its sha256 begins with {found[:12]}"
        else:
            return
        instead = "" if self.file.needed else "leave text= out to download it, or "
        raise UserError(
            f"{wrong}; track={self.name} needs its file, sha256 {self.file.sha256[:12]}...; "
            f"{instead}type\n"
            f"  curl -fL -o {self.name}.txt {self.file.url}\n"
            f"  python -m tinygpt.speedrun track={self.name} text={self.name}.txt"
        )

    def dataset_fields(self, text: Path | None) -> dict[str, Any]:
        """Every field of the dataset that entries may not change, with its value."""
        registry.import_all()
        dataset = registry.lookup("dataset", self.dataset["name"])
        known = {f.name for f in fields(dataset)}
        config = dataset(**self.dataset, **({"path": str(text)} if text else {}))
        free = {name.removeprefix("dataset.") for name in OF_TRAINING}
        return {name: getattr(config, name) for name in sorted(known - free)}

    def settings(self, text: Path | None) -> list[str]:
        """The overrides of every run on this track; `text` is a local copy of the text."""
        values = self.dataset_fields(text)
        chosen = [f"dataset={values.pop('name')}"]
        chosen += [f"dataset.{name}={overrides.quoted(value)}" for name, value in values.items()]
        return chosen + [f"{name}={value}" for name, value in _CHOSEN.items()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_ALL = (
    Track(
        name="shakespeare",
        about="tiny Shakespeare, 1.1 MB of plays: the first 90 % train, the last 10 % validate",
        dataset={"name": "tiny_shakespeare"},
        per_character=True,
        target=1.885,  # of nanoGPT's README, "I only have a macbook": its run on a CPU
        train_sha256="c9171ad710586a99d2666b8b6935e9777beaad96ca71fb6459e26c697d99cc88",
        validation_sha256="9f1918d17163f991ff0583aad8842c73b34c52b902d99714962a23023519791c",
        shared_ngrams=0.0,
        file=TextFile(
            url="https://raw.githubusercontent.com/karpathy/char-rnn/"
            "master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            needed=False,
        ),
    ),
    Track(
        name="stories",
        about="1,559 and 169 stories of TinyStoriesV2-GPT4, 1.3 and 0.1 MB: its first 10,000 lines",
        dataset={"name": "text", "separator": "<|endoftext|>"},
        per_character=False,
        target=1.25,
        train_sha256="50a7693c9cebd70f35d2e579935b348af94884c59a860f370f9516c42cd98e73",
        validation_sha256="e2b215b2a6f74423cd973fe3e983055d630bcc8aba42d50da23e303b871467c0",
        shared_ngrams=0.004,  # 0.0035: "... in a small house, there lived a little girl"
        file=TextFile(
            url="https://raw.githubusercontent.com/mines-opt-ml/decoding-gpt/"
            "79274e31fe66ed5cf23be815bf51dc63a4ca57a6/data/tinystories_10k.txt",
            sha256="5a19b936d7b53bbdac1eea03230b00161dceca24ae272f5bd8e9dbbc2a883418",
        ),
    ),
    Track(
        name="storyworld",
        about="20,000 and 200 generated stories, 17.9 and 0.2 MB, of entropy 0.193 bits per byte",
        dataset={"name": "storyworld", "train_stories": 20_000, "validation_stories": 200},
        per_character=False,
        target=0.25,
        train_sha256="3ce97e841661cfa07b29fd4467a41bbec431731c7a915117f5727c01815fd0d1",
        validation_sha256="62e63a9967da209d4ff9d115495f8302b750204dd6b08c73af146c0672ee7816",
        shared_ngrams=0.108,  # 0.1078: sentences of the grammar that both splits have
    ),
)
TRACKS = {track.name: track for track in _ALL}
