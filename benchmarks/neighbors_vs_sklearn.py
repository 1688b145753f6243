"""Exact nearest neighbors of every row against scikit-learn's brute force and a plain blocked product in torch.

Rectified Gaussian features around ten centres, seeded, float32. scikit-learn and torch use all threads in one process;
ours runs the tasks of the leaf, as the runner spreads them, in as many processes of one thread. The features lie in a
Zarr group as an audit stores them, and every task reads them block by block; that time is ours to bear. scikit-learn
and torch have them in memory.

"the product alone" is the matrix product of all with all and nothing else, in tiles like ours: in float32, and in
bfloat16, where ours looks first if the processor multiplies such numbers itself. --float32 takes that away from ours.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from alternating import ask, hand_over, in_turn, machine, median, ratio, table, timed

SHARD = 256


def features(n: int, width: int) -> np.ndarray:
    """Rows around ten centres, none below zero."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((10, width)).astype(np.float32) * np.float32(0.7)
    rows = rng.standard_normal((n, width), dtype=np.float32) + centre[rng.integers(0, 10, n)]
    return np.maximum(rows, 0, out=rows)


def store(rows: np.ndarray, folder: Path) -> Path:
    """The rows as the stage `features` leaves them."""
    from convaudit.pipelines.store import allocate, write_rows
    from convaudit.stages.features.stage import FEATURE

    path = folder / "features.zarr"
    allocate(path, "features", (FEATURE.sized(rows.shape, layer="fc.input"),), SHARD)
    for a in range(0, len(rows), SHARD):
        write_rows(path, {"fc.input": rows[a : a + SHARD]}, a)
    return path


def task(path: str, first: int, last: int, k: int, metric: str, block: int, float32: bool) -> tuple[Any, ...]:
    """One task of the leaf: what a worker does."""
    import torch
    import zarr
    from threadpoolctl import threadpool_limits

    from convaudit.stages.numerics import nearest
    from convaudit.stages.numerics.nearest import Table, nearest_rows

    torch.set_num_threads(1)
    if float32:
        nearest.has_short_products = lambda: False  # type: ignore[assignment]

    rows: Any = zarr.open_group(path, mode="r")["fc.input"]
    held = Table(rows, np.ones(rows.shape[0], bool), metric, block)  # type: ignore[arg-type]
    with threadpool_limits(1), timed(spent := {}):
        found = nearest_rows(held, np.arange(first, last), np.asarray(rows[first:last]), k)
    return found.index, found.decided, spent["cpu"]


def ours(options: argparse.Namespace, rows: np.ndarray, folder: Path, pool: Any) -> dict[str, Any]:
    from convaudit.stages.neighbors.stage import pieces

    path = str(store(rows, folder))
    found: dict[str, Any] = {}
    with timed(found):
        jobs = [
            pool.submit(task, path, some.start, some.stop, options.k, options.metric, options.block, options.float32)
            for some in pieces(len(rows), options.block, SHARD)
        ]
        parts = [job.result() for job in jobs]
    index, decided = (np.concatenate(part) for part in list(zip(*parts, strict=True))[:2])
    counts = np.bincount(decided, minlength=3)
    # The workers live on, so that this process does not yet know what they spent.
    found["cpu"] += sum(part[2] for part in parts)
    return found | {"decided": counts.tolist(), "wrong": wrong_rows(rows, index, options)}


def wrong_rows(rows: np.ndarray, index: np.ndarray, options: argparse.Namespace) -> int:
    """Rows, of some, whose neighbors or their order differ from those of a float64 brute force, ties by position."""
    exact = rows.astype(np.float64)
    if options.metric == "cosine":
        exact /= np.sqrt((exact**2).sum(axis=1, keepdims=True))
    wrong = 0
    for i in np.random.default_rng(1).permutation(len(rows))[: options.checked]:
        squared = ((exact - exact[i]) ** 2).sum(axis=1)
        squared[i] = np.inf
        wrong += not np.array_equal(np.lexsort((np.arange(len(rows)), squared))[: options.k], index[i])
    return wrong


def sklearn(options: argparse.Namespace, rows: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=options.k, algorithm="brute", metric=options.metric).fit(rows)
    return model.kneighbors(return_distance=True)[1]


def torch_plain(options: argparse.Namespace, rows: np.ndarray) -> np.ndarray:
    import torch

    held = torch.from_numpy(rows)
    if options.metric == "cosine":
        held = torch.nn.functional.normalize(held)
    length = (held * held).sum(dim=1)
    found = []
    for a in range(0, len(held), 1024):
        some = held[a : a + 1024]
        distance = length - 2 * (some @ held.T)
        distance[torch.arange(len(some)), torch.arange(a, a + len(some))] = torch.inf
        found.append(distance.topk(options.k, largest=False).indices)
    return torch.cat(found).numpy()


def product(options: argparse.Namespace, rows: np.ndarray) -> None:
    del options
    held = np.empty(512 * 2048, np.float32)
    for a in range(0, len(rows), 512):
        for b in range(0, len(rows), 2048):
            left, right = rows[a : a + 512], rows[b : b + 2048]
            np.matmul(left, right.T, out=held[: len(left) * len(right)].reshape(len(left), len(right)))


def short_product(options: argparse.Namespace, rows: np.ndarray) -> None:
    import torch

    del options
    short = torch.from_numpy(rows).bfloat16()
    held = short.new_empty(512 * 4096)
    for a in range(0, len(rows), 512):
        for b in range(0, len(rows), 4096):
            left, right = short[a : a + 512], short[b : b + 4096]
            torch.mm(left, right.T, out=held[: len(left) * len(right)].view(len(left), len(right)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    rows = features(options.rows, options.width)
    if options.child == "ours":
        with tempfile.TemporaryDirectory() as folder:
            pool = ProcessPoolExecutor(options.threads, mp_context=get_context("forkserver"))
            with pool:
                path = str(store(rows[:600], Path(folder) / "warm"))
                warm = [pool.submit(task, path, 0, 256, 3, "cosine", 256, options.float32)] * 2
                [job.result() for job in warm]
                return ours(options, rows, Path(folder), pool)
    import torch

    torch.set_num_threads(options.threads)
    contestant = {"sklearn": sklearn, "torch": torch_plain, "product": product, "short": short_product}[options.child]
    found: dict[str, Any] = {}
    with threadpool_limits(options.threads):
        contestant(options, rows[:2048])
        with timed(found):
            index = contestant(options, rows)
    return found if index is None else found | {"wrong": wrong_rows(rows, index, options)}


def compare(options: argparse.Namespace) -> None:
    where = machine("numpy", "scikit-learn", "torch", "zarr")
    names = {
        "scikit-learn, brute": "sklearn", "torch, blocked product and topk": "torch", "ours": "ours",
        "the product alone": "product", "the same in bfloat16": "short",
    }  # fmt: skip
    fixed = ["--rows", options.rows, "--width", options.width, "--k", options.k, "--metric", options.metric,
             "--block", options.block, "--threads", options.threads, "--checked", options.checked,
             *(["--float32"] if options.float32 else [])]  # fmt: skip
    contestants = {name: lambda child=child: ask(__file__, ["--child", child, *fixed]) for name, child in names.items()}
    found = in_turn(contestants, options.repeats)
    first = found["scikit-learn, brute"]
    rows: list[list[object]] = [
        ["contestant", "s", "times scikit-learn (range)", "the same in CPU time", "rows unlike a float64 search"]
    ]  # fmt: skip
    for name, rounds in found.items():
        wrong = f"{rounds[0]['wrong']} of {options.checked}" if "wrong" in rounds[0] else ""
        wall = f"{median([r['wall'] for r in rounds]):.1f}"
        rows.append([name, wall, ratio(first, rounds, "wall"), ratio(first, rounds, "cpu"), wrong])
    print(
        f"{where}. {options.rows} rows of {options.width}, k = {options.k}, {options.metric}, {options.threads} "
        f"threads or processes, median of {options.repeats} rounds.\n"
    )
    table(rows)
    words = ("float32 or bfloat16 products", "float64 products", "every pair")
    counts = zip(found["ours"][0]["decided"], words, strict=True)
    print("Ours, rows settled by: " + ", ".join(f"{word} {n}" for n, word in counts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--metric", choices=["euclidean", "cosine"], default="euclidean")
    parser.add_argument("--block", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checked", type=int, default=200, help="rows held against a float64 brute force")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="ours without bfloat16 products")
    parser.add_argument("--child", choices=["ours", "sklearn", "torch", "product", "short"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        compare(options)
    else:
        hand_over(measure(options))


if __name__ == "__main__":
    main()
