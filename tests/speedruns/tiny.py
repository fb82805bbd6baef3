"""A track of 20 stories, and an entry that trains on it in a moment."""

import hashlib

from tinygpt.components.datasets.storyworld.config import StoryworldConfig
from tinygpt.interfaces import Split
from tinygpt.speedruns.tracks import Track

ENTRY = """\
name: fast
author: A. Student
idea: few steps
date: 2026-11-29
settings:
  - tokenizer=char
  - optimizer=adamw
  - model=nano
  - model.n_layer=1
  - model.d_model=16
  - model.n_head=2
  - trainer.seq_len=32
  - trainer.micro_batch_size=4
  - trainer.tokens_per_step=128
  - trainer.max_steps=4
"""


def text_sha256(dataset: StoryworldConfig, split: Split) -> str:
    texts = dataset.open().documents(split)
    return hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()


def tiny_track() -> Track:
    dataset = StoryworldConfig(train_stories=20, validation_stories=3)
    return Track(
        name="tiny",
        about="20 stories",
        dataset={"name": "storyworld", "train_stories": 20, "validation_stories": 3},
        per_character=False,
        target=9.0,
        train_sha256=text_sha256(dataset, "train"),
        validation_sha256=text_sha256(dataset, "validation"),
        shared_ngrams=0.5,
    )
