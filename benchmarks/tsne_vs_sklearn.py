"""t-SNE as an audit runs it against scikit-learn's.

Rectified Gaussian features around ten centres, seeded, float32, reduced beforehand to 50 principal components: both get
the same numbers, the same perplexity and the same start. Each takes the steps that it takes by default: ours 750,
scikit-learn's 1,000; scikit-learn with 750 stands beside it. Ours includes the exact neighbors.

Besides the time: which share of each point's neighbors in the features stays among its neighbors in the plane.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from alternating import ask, hand_over, in_turn, machine, median, ratio, table, timed

NEIGHBORS = 10
#: Steps of scikit-learn where nobody names a number.
DEFAULT = 1000


def features(n: int, width: int) -> np.ndarray:
    """Principal coordinates of rows around ten centres."""
    from convaudit.stages.embeddings.rows import Rows
    from convaudit.stages.embeddings.sampling import condensed

    rng = np.random.default_rng(0)
    centre = rng.standard_normal((10, width)).astype(np.float32) * np.float32(0.7)
    rows = np.maximum(rng.standard_normal((n, width), dtype=np.float32) + centre[rng.integers(0, 10, n)], 0)
    return condensed(Rows(rows, np.ones(n, bool), width), 50, 0, "benchmark").astype(np.float32)


def kept(rows: np.ndarray, place: np.ndarray) -> float:
    """Mean share of the nearest rows that are among the nearest places."""
    from sklearn.neighbors import NearestNeighbors

    some = np.arange(0, len(rows), max(1, len(rows) // 500))
    near = [
        NearestNeighbors(n_neighbors=NEIGHBORS + 1).fit(values).kneighbors(values[some], return_distance=False)
        for values in (rows, place)
    ]
    shares = [len(np.intersect1d(a, b)) - 1 for a, b in zip(*near, strict=True)]
    return float(np.mean(shares) / NEIGHBORS)


def ours(options: argparse.Namespace, rows: np.ndarray) -> np.ndarray:
    from convaudit.stages.embeddings.tsne import tsne

    return tsne(rows, options.perplexity, options.steps - 250, 0)[0]


def sklearn(options: argparse.Namespace, rows: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    start = rows[:, :2] / rows[:, 0].std() * 1e-4
    settings: dict[str, Any] = {"perplexity": options.perplexity, "max_iter": options.steps, "n_jobs": options.threads}
    return TSNE(init=start, random_state=0, n_iter_without_progress=options.steps, **settings).fit_transform(rows)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(options.threads)
    contestant = {"ours": ours, "sklearn": sklearn}[options.child]
    rows = features(options.rows, options.width)
    found: dict[str, Any] = {}
    with threadpool_limits(options.threads):
        with timed(found):
            place = contestant(options, rows)
        return found | {"kept": kept(rows, place)}


def compare(options: argparse.Namespace) -> None:
    where = machine("numpy", "openTSNE", "scikit-learn")
    fixed = ["--rows", options.rows, "--width", options.width, "--perplexity", options.perplexity,
             "--threads", options.threads]  # fmt: skip
    sides = {
        "scikit-learn": ("sklearn", DEFAULT),
        f"scikit-learn, {options.steps} steps": ("sklearn", options.steps),
        "ours": ("ours", options.steps),
    }
    environment = {"OMP_NUM_THREADS": str(options.threads)}
    contestants = {
        name: lambda child=child, steps=steps: ask(__file__, ["--child", child, "--steps", steps, *fixed], environment)
        for name, (child, steps) in sides.items()
    }
    found = in_turn(contestants, options.repeats)
    rows: list[list[object]] = [
        ["contestant", "s", "times scikit-learn (range)", "the same in CPU time", "neighbors kept"]
    ]
    for name, rounds in found.items():
        first = found["scikit-learn"]
        wall, share = median([r["wall"] for r in rounds]), median([r["kept"] for r in rounds])
        rows.append([name, f"{wall:.1f}", ratio(first, rounds, "wall"), ratio(first, rounds, "cpu"), f"{share:.3f}"])
    print(
        f"{where}. {options.rows} points of 50 components, perplexity {options.perplexity:g}, {options.steps} steps "
        f"of ours, {options.threads} threads, median of {options.repeats} rounds.\n"
    )
    table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--perplexity", type=float, default=30)
    parser.add_argument("--steps", type=int, default=750, help="250 of them exaggerated; at least 251")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=["ours", "sklearn"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        compare(options)
    else:
        hand_over(measure(options))


if __name__ == "__main__":
    main()
