"""Endless short children's stories from a grammar of our own, each with its exact probability."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tinygpt.components.datasets.storyworld.grammar import NotAStory, Story
from tinygpt.components.datasets.storyworld.plots import PLOTS, STORYWORLD
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import SPLITS, DatasetConfig, Split, TextSource
from tinygpt.registry import register

# Part of the key of prepared data: change it whenever a seed gives other stories. The first one is
# a hash of the grammar's source, so that data prepared before there were versions stays valid.
GRAMMAR_VERSION = "88012cf47adf6de836e615e049203efbad28cd509868e3e3e06d177089d89a20"


def story(seed: int, split: Split, index: int) -> Story:
    """The story at `index` of the split: a pure function, whatever the sizes of the splits."""
    return STORYWORLD.write(Random(f"storyworld {seed} {split} {index}"))


def bits_of(text: str) -> float:
    """-log2 of the probability that the grammar generates exactly this text.

    Raises UserError if it cannot.
    """
    try:
        return STORYWORLD.read(text).bits
    except NotAStory as error:
        raise UserError(f"the text is not a story of storyworld: {error}") from error


@register("dataset")
@dataclass
class StoryworldConfig(DatasetConfig):
    """The number of stories and their seed."""

    name: str = "storyworld"
    seed: int = 0  # another seed gives other stories in both splits, by the same grammar
    train_stories: int = 20_000  # more: less repetition in training; validation stays as it is
    validation_stories: int = 500  # more: less noise in val/bpb, and each evaluation takes longer

    def __post_init__(self) -> None:
        check_range("dataset.seed", self.seed, low=0)
        check_range("dataset.train_stories", self.train_stories, low=1)
        check_range("dataset.validation_stories", self.validation_stories, low=1)

    def open(self) -> "Storyworld":
        return Storyworld(self)


class Storyworld(TextSource):
    """Stories generated when they are read; none are stored."""

    def __init__(self, config: StoryworldConfig) -> None:
        self.seed = config.seed
        sizes = (config.train_stories, config.validation_stories)
        self.sizes: dict[Split, int] = dict(zip(SPLITS, sizes, strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "dataset": "storyworld",
            "grammar": GRAMMAR_VERSION,
            "seed": self.seed,
            **{f"{split}_stories": size for split, size in self.sizes.items()},
        }

    def stories(self, split: Split) -> Iterator[Story]:
        return (story(self.seed, split, index) for index in range(self.sizes[split]))

    def documents(self, split: Split) -> Iterator[str]:
        return (told.text for told in self.stories(split))

    def n_documents(self, split: Split) -> int:
        return self.sizes[split]

    def entropy_bits(self, split: Split) -> float:
        return sum(told.bits for told in self.stories(split))

    def provenance(self) -> dict[str, Any]:
        return {"source": "told by tinygpt's own grammar", "plots": list(PLOTS)}
