"""Which measures punish which fault: shuffled sentences, babble from trigrams, copied stories.

    python experiments/evaluation/punished.py outputs/RUN

The run must be of storyworld.  Prints a table of Markdown.
"""

import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from tinygpt import console, registry
from tinygpt.components.datasets.storyworld.config import bits_of
from tinygpt.errors import UserError
from tinygpt.evaluation import text_measures
from tinygpt.evaluation.minimal_pairs import sentences
from tinygpt.evaluation.subject import Subject
from tinygpt.interfaces import utf8_length

STORIES = 64


def shuffled(text: str, rng: random.Random) -> str:
    """The sentences of a story in another order."""
    parts = [text[start:end] for start, end in sentences(text)]
    rng.shuffle(parts)
    return " ".join(parts)


def babbler(texts: list[str]):
    """A writer of stories by trigrams of words: each word is one that followed the last two."""
    following = defaultdict(list)
    for text in texts:
        words = ["", "", *text.split(" "), None]
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            following[first, second].append(third)

    def write(rng: random.Random) -> str:
        words: list[str] = ["", ""]
        while (word := rng.choice(following[words[-2], words[-1]])) is not None:
            words.append(word)
        return " ".join(words[2:])

    return write


def is_told(text: str) -> bool:
    """Whether storyworld's grammar tells the text."""
    try:
        bits_of(text)
    except UserError:
        return False
    return True


def main() -> None:
    """Print each measure for held-out stories and for three kinds of faulty ones."""
    registry.import_all()
    subject = Subject(Path(sys.argv[1]), device="cpu", say=print, warn=console.warn)
    train, held_out = subject.documents("train"), subject.documents(limit=STORIES)
    write = babbler(train)
    groups = {
        "held out": held_out,
        "shuffled": [shuffled(text, random.Random(i)) for i, text in enumerate(held_out)],
        "babble": [write(random.Random(i)) for i in range(STORIES)],
        "copied": train[:STORIES],
    }
    stream = np.asarray(subject.prepared.tokens("train")[:], dtype=np.int64)
    rows = defaultdict(list)
    for texts in groups.values():
        nats = sum(of_text.sum() for of_text in subject.text_nats(texts))
        rows["bits per byte, by the model"].append(nats / np.log(2) / sum(map(utf8_length, texts)))
        rows["accepted by the grammar"].append(sum(map(is_told, texts)) / len(texts))
        longest = text_measures.longest_copies([*map(subject.tokenizer.encode, texts)], stream)
        rows["longest_copy, tokens"].append(float(np.mean(longest)))
        rows["repeated_4grams"].append(
            float(np.mean([text_measures.repeated(text) or 0.0 for text in texts]))
        )
        rows["balanced_quotes"].append(
            float(np.mean([text_measures.has_balanced_quotes(text) for text in texts]))
        )
        rows["distance_2grams"].append(
            text_measures.distance(texts, subject.documents(limit=500)[STORIES:], 2)
        )
    print(f"| | {' | '.join(groups)} |\n|---|{'---|' * len(groups)}")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.3g}' for value in values)} |")


if __name__ == "__main__":
    main()
