"""The TinyStories written by GPT-4, without duplicates, in ASCII, in one file."""

from dataclasses import dataclass
from typing import ClassVar

from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.registry import register


@register("dataset")
@dataclass
class TinyStoriesCleanConfig(HubConfig):
    """Rows 0 to 9,999 are the published test set: nothing here reads them."""

    train_bytes: ClassVar[int | None] = 2_175_177_929  # ASCII, so also characters

    name: str = "tiny_stories_clean"
    repo: str | None = "karpathy/tinystories-gpt4-clean"
    fraction: int | float | str = "auto"
    train_rows: str | None = "20000:"
    validation_split: str | None = "train"
    validation_rows: str | None = "10000:20000"
