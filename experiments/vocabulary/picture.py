"""The vocabulary of tokenizer.vocab_size=auto over the size of the text: table and picture.

python experiments/vocabulary/picture.py FOLDER   # a local copy of TinyStories
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinygpt.components.datasets.tiny_stories import TinyStoriesConfig
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.interfaces import utf8_length

HERE = Path(__file__).parent
FULL_BYTES = 1.92e9  # training text of the whole dataset
FITTED = 5  # portions, the largest ones

texts = list(TinyStoriesConfig(path=sys.argv[1]).open().documents("train"))
points = []
for halvings in range(6, -1, -1):
    portion = texts[: len(texts) >> halvings]
    size = sum(map(utf8_length, portion))
    points.append((size, BPEConfig(vocab_size="auto").train(iter(portion)).vocab_size))
    print(f"| {size / 1e6:.2f} | {points[-1][1]:,} |")

x, y = np.log(np.array(points, dtype=float)).T
slope, start = np.polyfit(x[-FITTED:], y[-FITTED:], 1)
full = float(np.exp(start + slope * np.log(FULL_BYTES)))
print(f"exponent {slope:.3f}; {full:,.0f} at {FULL_BYTES / 1e9} GB")

figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
ax = figure.subplots()
line = np.geomspace(points[0][0], FULL_BYTES)
ax.loglog(line / 1e6, np.exp(start + slope * np.log(line)), "--", color="C1", label="power law")
ax.loglog(*(np.array(points) / [1e6, 1]).T, "o", label="measured")
ax.loglog(FULL_BYTES / 1e6, full, "*", color="C1", ms=12, label=f"all of TinyStories: {full:,.0f}")
ax.set(xlabel="training text, MB", ylabel="pieces", title="Pieces that occur at least 100 times")
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(HERE / "curve.png")
