"""A scaling law of runs: loss over parameters N and training tokens D.

L(N, D) = E + A / N^alpha + B / D^beta, fitted as in Hoffmann et al. 2022 (arXiv 2203.15556),
section 3.3 and appendix D.2.  N counts the parameters without embeddings and output matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError

Array = npt.NDArray[np.float64]

HUBER = 1e-3  # errors of log L beyond it count linearly, as in the paper
EXPONENTS = np.geomspace(0.05, 2.0, 24)  # of N and of D, at which the search starts
STARTS = 4  # best pairs of exponents that are refined
SAMPLES = 300  # of the bootstrap
SMALLEST = 1e-6  # of E, and of A and B in the units of the fit: a logarithm cannot hold zero
SAME_BUDGET = 1.05  # largest ratio of FLOPs within one budget
FEWEST = {"size": 3, "length": 3}  # different values
FEWEST_POINTS = 6  # one more than the law has constants
LARGER = 8  # times the largest FLOPs: the run that is predicted if none is typed
_MORE = (
    "train a grid of sizes and lengths, such as\n  python -m tinygpt.train -m model=nano "
    "model.d_model=32,64,128 trainer.max_tokens=250k,500k,1M"
)


@dataclass(frozen=True)
class Point:
    """One run: its size, its length and what it reached."""

    n: float  # parameters without embeddings and output matrix
    d: float  # training tokens
    loss: float
    flops: float


@dataclass(frozen=True)
class Law:
    """The constants of L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float  # the loss that remains at any size and length
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, n: npt.ArrayLike, d: npt.ArrayLike) -> Array:
        """The loss of models of n parameters after d tokens."""
        size, length = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
        of_law: Array = self.E + self.A * size**-self.alpha + self.B * length**-self.beta
        return of_law

    @property
    def size_exponent(self) -> float:
        """a of N ~ C^a, the best size for C = 6 N D FLOPs."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval from the bootstrap."""

    value: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Budget:
    """Runs of equal FLOPs, and the size at which a parabola through them is lowest."""

    flops: float
    points: tuple[Point, ...]
    curve: tuple[float, float, float] | None  # of log N, highest power first; None: no minimum
    best: float | None  # the n of the minimum, if it is between the sizes of the runs


@dataclass(frozen=True)
class Fit:
    """A law, the points that it was fitted to, and laws of resampled points."""

    points: tuple[Point, ...]
    law: Law
    samples: tuple[Law, ...]
    seed: int

    def interval(self, name: str) -> Interval:
        """A constant of the law, or `size_exponent`."""
        low, high = np.quantile([getattr(law, name) for law in self.samples], [0.025, 0.975])
        return Interval(getattr(self.law, name), float(low), float(high))

    @cached_property
    def errors(self) -> Array:
        """log of each loss less log of what the law says."""
        points = self.points
        said = self.law.loss([p.n for p in points], [p.d for p in points])
        found: Array = np.log([p.loss for p in points]) - np.log(said)
        return found

    def predict(self, n: float, d: float) -> Interval:
        """The loss of one new run, with the interval that it should fall into.

        It holds what is unsure of the law, and what single runs differ from it.
        """
        rng = np.random.default_rng(self.seed)
        freedom = len(self.points) / max(1, len(self.points) - len(fields(Law)))
        noise = rng.choice(self.errors, size=(len(self.samples), 20)) * np.sqrt(freedom)
        of_samples = np.array([law.loss(n, d) for law in self.samples])[:, None] * np.exp(noise)
        value = float(self.law.loss(n, d))
        low, high = np.quantile(of_samples, [0.025, 0.975])
        return Interval(value, min(value, float(low)), max(value, float(high)))

    @cached_property
    def largest(self) -> Point:
        """The run with the most FLOPs."""
        return max(self.points, key=lambda point: point.flops)

    def best_for(self, flops: float) -> tuple[float, float]:
        """The best n and its d for this many FLOPs.

        FLOPs of a token are taken to be so many times n as they are in the runs of nearest n.
        """
        each = sorted({(p.n, p.flops / p.d / p.n) for p in self.points})
        sizes, factors = (np.array(column) for column in zip(*each, strict=True))
        n = np.geomspace(sizes[0] / 10, sizes[-1] * 100, 4000)
        d = flops / (n * np.interp(np.log(n), np.log(sizes), factors))
        best = int(np.argmin(self.law.loss(n, d)))
        return float(n[best]), float(d[best])


def fit(points: Sequence[Point], *, samples: int = SAMPLES, seed: int = 0) -> Fit:
    """Fit the law, and again to each of `samples` draws of the points with replacement.

    Raises UserError for too few sizes, lengths or points.
    """
    check_enough(points)
    logs = np.array([[p.n, p.d, p.loss] for p in points])
    law = fit_law(logs[:, 0], logs[:, 1], logs[:, 2])
    rng = np.random.default_rng(seed)
    laws: list[Law] = []
    while len(laws) < samples:
        drawn = logs[rng.integers(len(logs), size=len(logs))]
        if _is_enough(drawn[:, 0], drawn[:, 1]):
            laws.append(fit_law(drawn[:, 0], drawn[:, 1], drawn[:, 2], near=law))
    return Fit(tuple(points), law, tuple(laws), seed)


def check_enough(points: Sequence[Point]) -> None:
    """Raise UserError unless the points can determine the five constants."""
    sizes, lengths = {p.n for p in points}, {p.d for p in points}
    pairs = {(p.n, p.d) for p in points}
    if _is_enough([p.n for p in points], [p.d for p in points]) and len(pairs) >= FEWEST_POINTS:
        return
    raise UserError(
        f"fit=scaling needs runs of at least {FEWEST['size']} sizes and {FEWEST['length']} "
        f"lengths, {FEWEST_POINTS} pairs of them in all, and found {len(sizes)} "
        f"size{'s' * (len(sizes) != 1)}, {len(lengths)} length{'s' * (len(lengths) != 1)} and "
        f"{len(pairs)} pair{'s' * (len(pairs) != 1)}; {_MORE}"
    )


def _is_enough(n: npt.ArrayLike, d: npt.ArrayLike) -> bool:
    return len(np.unique(n)) >= FEWEST["size"] and len(np.unique(d)) >= FEWEST["length"]


def fit_law(n: Array, d: Array, loss: Array, *, near: Law | None = None) -> Law:
    """The law with the least Huber loss of log L.

    For each pair of exponents E, A and B are found by non-negative least squares of relative
    errors; the best pairs are refined by L-BFGS.  The paper refines a grid of all five constants,
    which takes a hundred times as long.  With `near`, the search starts there alone,
    and at a larger E if near.E is zero.
    """
    from scipy.optimize import minimize, nnls

    # units near 1, so that all constants have like sizes
    n_unit, d_unit = np.exp(np.mean(np.log(n))), np.exp(np.mean(np.log(d)))
    x, y = np.log(n / n_unit), np.log(d / d_unit)
    log_loss = np.log(loss)

    def objective(theta: Array) -> tuple[float, Array]:
        e, a, alpha, b, beta = theta
        terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * y])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        error = top + np.log(total) - log_loss
        small = np.abs(error) <= HUBER
        cost = np.where(small, error**2 / 2, HUBER * (np.abs(error) - HUBER / 2))
        slope = np.clip(error, -HUBER, HUBER)
        p_e, p_a, p_b = slope * shares / total
        gradient = np.array([p_e.sum(), p_a.sum(), -(p_a @ x), p_b.sum(), -(p_b @ y)])
        return float(cost.sum()) / HUBER**2, gradient / HUBER**2

    if near is None:
        starts = []
        for alpha in EXPONENTS:
            for beta in EXPONENTS:
                terms = [np.ones_like(x), np.exp(-alpha * x), np.exp(-beta * y)]
                weights, rest = nnls(np.stack(terms, axis=1) / loss[:, None], np.ones_like(x))
                e, a, b = np.log(np.maximum(weights, SMALLEST))
                starts.append((float(rest), (e, a, alpha, b, beta)))
        begin = [theta for _, theta in sorted(starts)[:STARTS]]
    else:
        a, b = near.A * n_unit**-near.alpha, near.B * d_unit**-near.beta
        e, a, b = np.log(np.maximum([near.E, a, b], SMALLEST))
        begin = [(e, a, near.alpha, b, near.beta)]
        if near.E / loss.min() < 0.01:  # the slope over log E is zero there, so E would stay
            begin.append((float(np.log(loss.min() / 2)), *begin[0][1:]))
    low = float(np.log(SMALLEST))
    bounds = [(low, 15), (low, 15), (0.01, 4), (low, 15), (0.01, 4)]
    found = [
        minimize(objective, theta, jac=True, method="L-BFGS-B", bounds=bounds) for theta in begin
    ]
    e, a, alpha, b, beta = min(found, key=lambda result: float(result.fun)).x
    return Law(
        E=float(np.exp(e)),
        A=float(np.exp(a) * n_unit**alpha),
        alpha=float(alpha),
        B=float(np.exp(b) * d_unit**beta),
        beta=float(beta),
    )


def budgets(points: Sequence[Point]) -> list[Budget]:
    """Groups of runs with nearly equal FLOPs and three sizes or more, smallest FLOPs first."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.flops):
        if groups and point.flops <= groups[-1][0].flops * SAME_BUDGET:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [_budget(group) for group in groups if len({p.n for p in group}) >= FEWEST["size"]]


def _budget(points: Sequence[Point]) -> Budget:
    """A parabola of log loss over log n, by least squares."""
    x, y = np.log([p.n for p in points]), np.log([p.loss for p in points])
    c2, c1, c0 = map(float, np.polyfit(x, y, 2))
    flops = float(np.mean([p.flops for p in points]))
    if c2 <= 0:
        return Budget(flops, tuple(points), None, None)
    lowest = -c1 / (2 * c2)
    best = float(np.exp(lowest)) if x.min() <= lowest <= x.max() else None
    return Budget(flops, tuple(points), (c2, c1, c0), best)


def budget_exponent(found: Sequence[Budget]) -> Interval | None:
    """a of N ~ C^a, a line through the minima in logs, with Student's 95 % interval.

    None if fewer than three budgets have a minimum between the sizes of their runs.
    """
    from scipy import stats

    known = [(budget.flops, budget.best) for budget in found if budget.best is not None]
    if len(known) < 3:
        return None
    line = stats.linregress(*np.log(known).T)
    half_width = float(stats.t.ppf(0.975, len(known) - 2)) * float(line.stderr)
    return Interval(float(line.slope), line.slope - half_width, line.slope + half_width)
