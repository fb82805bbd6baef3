"""TinyStories: stories in the words of a four-year-old (Eldan and Li, arXiv 2305.07759)."""

from dataclasses import dataclass
from typing import ClassVar

from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.registry import register


@register("dataset")
@dataclass
class TinyStoriesConfig(HubConfig):
    """2.1 million stories, 1.9 GB of text; licence CDLA-Sharing-1.0."""

    train_bytes: ClassVar[int | None] = 1_900_000_000

    name: str = "tiny_stories"
    repo: str | None = "roneneldan/TinyStories"
    fraction: int | float | str = "auto"
