"""What the confusion stage computes, against the calls of scikit-learn that give the same numbers.

Seeded logits of many images and classes, float32, in an uncompressed file that both map: ours reads it in blocks, as
it reads a store; scikit-learn is given what its functions take, which is a float64 table of all probabilities. Both
compute the matrix, precision, recall and F1 of every class, top-1 to top-5 accuracy, the negative log-likelihood, the
Brier score and the calibration error over 15 bins; scikit-learn has no calibration error, so that contestant bins with
NumPy. Ours has besides the calibration error of each class. All results of both must agree.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from alternating import ask, differences, hand_over, in_turn, machine, median, ratio, table, timed

BINS, TOP, BLOCK = 15, (1, 2, 3, 5), 4096
#: Spreads confidences over all bins.
SHARP = np.float32(2.5)
TOLERANCE = 1e-6


def make_logits(folder: Path, n: int, classes: int) -> None:
    """Logits whose label is the largest in about three of four cases; a hundredth of the labels is given at random."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, n)
    logit = np.lib.format.open_memmap(folder / "logit.npy", "w+", np.float32, (n, classes))
    for start in range(0, n, BLOCK):
        own = label[start : start + BLOCK]
        logit[start : start + BLOCK] = rng.standard_normal((len(own), classes), dtype=np.float32)
        logit[start + np.arange(len(own)), own] += rng.normal(4, 1, len(own)).astype(np.float32)
        logit[start : start + BLOCK] *= SHARP
    logit.flush()
    moved = rng.permutation(n)[: n // 100]
    label[moved] = rng.integers(0, classes, len(moved))
    np.save(folder / "label.npy", label)


def ours(logit: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    from convaudit.stages.confusion.calibration import calibration
    from convaudit.stages.confusion.classes import per_class
    from convaudit.stages.confusion.matrix import confusion_matrix
    from convaudit.stages.confusion.probabilities import scores

    predicted = np.empty(len(label), np.int64)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(label), BLOCK):
            rows = np.asarray(logit[start : start + BLOCK])
            predicted[start : start + BLOCK] = rows.argmax(axis=1)
            yield rows, label[start : start + BLOCK]

    found = scores(blocks(), logit.shape[1], BINS)
    matrix = confusion_matrix(label, predicted, logit.shape[1])
    classes = per_class(matrix)
    error = calibration(np.minimum(found.confidence, 1.0), found.right, BINS).error
    return {
        "matrix": matrix, "precision": classes.precision, "recall": classes.recall, "F1": classes.f1,
        "top": np.array([found.within(k) / len(label) for k in TOP]), "NLL": found.nll, "Brier": found.brier,
        "ECE": error,
    }  # fmt: skip


def sklearn(logit: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    from scipy.special import softmax
    from sklearn import metrics

    classes = np.arange(logit.shape[1])
    p = softmax(np.asarray(logit, np.float64), axis=1)
    predicted = p.argmax(axis=1)
    nothing: Any = np.nan
    whole: dict[str, Any] = {"scale_by_half": False}
    shares = metrics.precision_recall_fscore_support(label, predicted, labels=classes, zero_division=nothing)
    return {
        "matrix": metrics.confusion_matrix(label, predicted, labels=classes),
        "precision": shares[0], "recall": shares[1], "F1": shares[2],
        "top": np.array([metrics.top_k_accuracy_score(label, p, k=k, labels=classes) for k in TOP]),
        "NLL": metrics.log_loss(label, p, labels=classes),
        "Brier": metrics.brier_score_loss(label, p, labels=classes, **whole),
        "ECE": binned(p.max(axis=1), predicted == label),
    }  # fmt: skip


def binned(confidence: np.ndarray, right: np.ndarray) -> float:
    """Calibration error, bin by bin; each bin holds its lower border."""
    place = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    gaps = [abs((confidence[place == at] - right[place == at]).sum()) for at in range(BINS)]
    return float(sum(gaps) / len(right))


CONTESTANTS = {"ours": ours, "sklearn": sklearn}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    logit = np.load(options.folder / "logit.npy", mmap_mode="r")
    label = np.load(options.folder / "label.npy")
    CONTESTANTS[options.child](logit[:64, :8], label[:64] % 8)  # imports are no part of it
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    with timed(found):
        results = CONTESTANTS[options.child](logit, label)
    np.savez(options.folder / f"{options.child}.npz", **results)
    return found | {"memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def agreeing(folder: Path) -> dict[str, dict[str, float]]:
    """Largest difference of each result; fails where one is more than rounding, or other images are missing."""
    one, other = (np.load(folder / f"{name}.npz") for name in CONTESTANTS)
    assert all(np.array_equal(np.isnan(one[key]), np.isnan(other[key])) for key in one.files)
    found = {key: float(np.nanmax(np.abs(one[key] - other[key]))) for key in one.files}
    assert all(value <= TOLERANCE for value in found.values()), found
    return {"ours and scikit-learn": found}


def compare(options: argparse.Namespace) -> None:
    where = machine("numpy", "scikit-learn")
    with tempfile.TemporaryDirectory() as place:
        make_logits(Path(place), options.images, options.classes)
        names, threads = {"scikit-learn": "sklearn", "ours": "ours"}, {"OMP_NUM_THREADS": "1"}
        contestants = {
            name: lambda child=child: ask(__file__, ["--child", child, "--folder", place], threads)
            for name, child in names.items()
        }
        found = in_turn(contestants, options.repeats)
        compared = agreeing(Path(place))
    rows: list[list[object]] = [["contestant", "CPU s", "times scikit-learn in CPU time (range)", "memory, MiB"]]
    for name, rounds in found.items():
        cpu, memory = median([one["cpu"] for one in rounds]), median([one["memory"] for one in rounds])
        rows.append([name, f"{cpu:.2f}", ratio(found["scikit-learn"], rounds, "cpu"), f"{memory:,.0f}"])
    print(
        f"{where}. {options.images:,} images, {options.classes:,} classes, 1 thread, median of {options.repeats} "
        "rounds. Memory: growth of the largest resident set, pages of the mapped file included.\n"
    )
    table(rows)
    differences(compared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        compare(options)
    else:
        hand_over(measure(options))


if __name__ == "__main__":
    main()
