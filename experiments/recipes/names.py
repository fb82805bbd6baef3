"""How many samples of storyworld keep their names, by what its grammar tells.

python experiments/recipes/names.py latest                  # or run folders, then samples=40

A sample keeps its names if its first one is told again, and if each other name is new only where
stories of the grammar introduce one: after the same two words as in some of 4,000 true stories.
Of 400 other true stories, 397 keep theirs.
"""

import re
import sys
from collections.abc import Iterator

import tinygpt
from tinygpt.components.datasets.storyworld.config import story
from tinygpt.components.datasets.storyworld.words import NAMES

PROMPT = "Once upon a time"
WORDS = {entry.forms[""] for entry in NAMES.entries}
WORD = re.compile(r"[A-Za-z']+|[^\sA-Za-z']")
Context = tuple[str, ...]


def introduced(text: str) -> Iterator[tuple[str, Context]]:
    """Each name where it is new, with the two words or marks before it."""
    words, seen = WORD.findall(text), set[str]()
    for place, word in enumerate(words):
        if word in WORDS and word not in seen:
            seen.add(word)
            before = words[max(0, place - 2) : place]
            yield word, tuple("NAME" if one in WORDS else one for one in before)


def introductions(stories: int) -> set[Context]:
    """What comes before a name that is new and not the first, in true stories."""
    texts = (story(0, "train", index).text for index in range(stories))
    return {context for text in texts for _, context in list(introduced(text))[1:]}


def keeps_names(text: str, known: set[Context]) -> bool:
    """Whether the first name is told again, and others are introduced as in true stories."""
    new = list(introduced(text))
    if not new or len(re.findall(rf"\b{new[0][0]}\b", text)) < 2:
        return False
    return all(context in known for _, context in new[1:])


def main(*typed: str) -> None:
    """Print the share of true stories and of each run's samples that keep their names."""
    settings = dict(text.split("=", 1) for text in typed if "=" in text)
    number = settings.get("samples", "40")
    if not number.isdecimal() or number == "0":
        raise SystemExit(f"error: samples={number} must be a whole number; type samples=40")
    samples = int(number)
    known = introductions(4000)
    true = [keeps_names(story(0, "validation", index).text, known) for index in range(400)]
    print(f"true stories: {sum(true)} of {len(true)}")
    for folder in (text for text in typed if "=" not in text):
        run = tinygpt.load(folder)
        for temperature in (0.6, 1.0):
            texts = run.generate(
                PROMPT, num_samples=samples, temperature=temperature, max_new_tokens=400
            )
            kept = sum(keeps_names(PROMPT + text, known) for text in texts)
            print(f"{folder}, temperature {temperature}: {kept} of {samples}")


if __name__ == "__main__":
    main(*sys.argv[1:])
