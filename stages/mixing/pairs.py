"""What confusion, separation and neighbors say of each pair of classes, and what follows from all three."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom, false_discovery_control, rankdata

from .links import Links
from .separation import Separation

#: The three signals, in the order of every array that has a ``signal`` axis.
SIGNALS = ("confusion", "separation", "neighbors")
#: Verdicts, in the order of their codes.
VERDICTS = ("apart", "close", "representation", "head", "inconclusive")
APART, CLOSE, REPRESENTATION, HEAD, INCONCLUSIVE = range(len(VERDICTS))


@dataclass(frozen=True)
class Evidence:
    """All unordered pairs of classes, by first and then second class.

    Parameters
    ----------
    first, second
        Class positions, the smaller one first.
    images
        Images that each signal rests on: with an answer, with features, with labelled neighbors.
    hits
        Those of them that are answered as the other class, that lie nearer to the other's centroid, and, of the
        neighbors, the share of links that goes to the other class times the images.
    value
        The signals as they are shown: share of images confused, separation, enrichment of links.
    chosen
        Images that confusion, and separation, put into either of the two classes: where guessing would be right half
        of the time.
    head_only, features_only
        Images that only the head gives to the other class, and that only the centroids do.
    enough
        Whether each class has the images that a judgement needs, and all three signals are known.
    """

    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]
    images: Int[np.ndarray, "pair signal"]
    hits: Float[np.ndarray, "pair signal"]
    value: Float[np.ndarray, "pair signal"]
    chosen: Int[np.ndarray, "pair two"]
    head_only: Float[np.ndarray, " pair"]
    features_only: Float[np.ndarray, " pair"]
    enough: Bool[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Judged:
    """What the evidence amounts to, pair by pair.

    Parameters
    ----------
    evidence
        All pairs.
    typical
        Share that a signal is held against: what the other pairs have together, and at least one image.
    speaks
        Whether a signal stands out from that.
    verdict
        Position in `VERDICTS`.
    rank
        From 1, the most mixed pair, by each signal; equal ones share the mean of their ranks; NaN for pairs with too
        few images.
    joint
        Rank of the mean of the three, in the same way.
    """

    evidence: Evidence
    typical: Float[np.ndarray, "pair signal"]
    speaks: Bool[np.ndarray, "pair signal"]
    verdict: Int[np.ndarray, " pair"]
    rank: Float[np.ndarray, "pair signal"]
    joint: Float[np.ndarray, " pair"]

    def order(self) -> Int[np.ndarray, " pair"]:
        """Pairs to look at first: confused ones by confusion, close ones, then all others by joint rank."""
        rank, joint = (np.where(np.isnan(values), np.inf, values) for values in (self.rank[:, 0], self.joint))
        confused, close = self.speaks[:, 0], self.verdict == CLOSE
        group = np.where(confused, 0, np.where(close, 1, np.where(self.evidence.enough, 2, 3)))
        return np.lexsort((np.arange(len(joint)), joint, np.where(confused, rank, 0), group))

    def count(self, verdict: int) -> int:
        """Pairs of that verdict."""
        return int((self.verdict == verdict).sum())


def evidence(
    matrix: Int[np.ndarray, "label prediction"], inside: Separation, near: Links, min_support: int
) -> Evidence:
    """Lay the three signals side by side.

    Parameters
    ----------
    matrix
        Confusion matrix: images by label and answer.
    inside
        Classes in feature space.
    near
        Links between them.
    min_support
        Images that each class needs of every signal.
    """
    one, two = np.triu_indices(len(matrix), 1)

    def both(values: np.ndarray) -> np.ndarray:
        return values[one, two] + values[two, one]

    held = np.stack([matrix.sum(axis=1), inside.count, near.asked], axis=1)
    images = held[one] + held[two]
    taken, crossed = both(matrix), both(inside.crossed)
    joint, share = both(inside.crossed_taken), near.share[one, two]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.stack([taken / images[:, 0], inside.value[one, two], near.enrichment[one, two]], axis=1)
    hits = np.stack([taken.astype(np.float64), crossed, share * images[:, 2]], axis=1)
    supported = (np.minimum(held[one], held[two]) >= min_support).all(axis=1)
    enough = np.asarray(supported & ~np.isnan(value).any(axis=1) & ~np.isnan(hits).any(axis=1))
    chosen = np.stack([taken + matrix[one, one] + matrix[two, two], images[:, 1]], axis=1)
    return Evidence(one, two, images, hits, value, chosen, taken - joint, crossed - joint, enough)


def judged(found: Evidence, level: float) -> Judged:
    """Say of each pair which signals stand out, and what that means.

    Parameters
    ----------
    found
        All pairs.
    level
        Share of false ones allowed among those said to stand out (benjamini1995), signal by signal.

    Notes
    -----
    A signal stands out where its hits are more than the typical share explains, by an exact binomial test of one side;
    half hits and parts of an image are rounded down. Confusion and separation stand out, too, where they are more than
    one image explains and not proved fewer than by guessing between the two classes: all pairs may be mixed. Whether
    the head is at fault is a sign test over the images that head and centroids treat differently (mcnemar1947): is it
    the head alone more often than the centroids alone?
    """
    typical, speaks = _typical(found), np.zeros((len(found), len(SIGNALS)), bool)
    good = np.flatnonzero(found.enough)
    hits = np.floor(found.hits[good] + 1e-9)
    for place in range(len(SIGNALS)):
        chance = binom.sf(hits[:, place] - 1, found.images[good, place], typical[good, place])
        speaks[good, place] = _discovered(chance, level)
    for place in range(found.chosen.shape[1]):
        images = found.images[good, place]
        proved = binom.sf(hits[:, place] - 1, images, 1 / images) <= level
        speaks[good, place] |= proved & (binom.cdf(hits[:, place], found.chosen[good, place], 0.5) > level)
    rank, joint = _ranks(found)
    return Judged(found, typical, speaks, _verdicts(found, speaks, level), rank, joint)


def _typical(found: Evidence) -> Float[np.ndarray, "pair signal"]:
    """Share of the other pairs together; one image of a pair, where that is more: one alone proves nothing."""
    images, hits = (np.where(found.enough[:, None], values, 0) for values in (found.images, found.hits))
    rest_images, rest_hits = images.sum(axis=0) - images, np.maximum(hits.sum(axis=0) - hits, 0)
    rest = np.divide(rest_hits, rest_images, out=np.zeros(hits.shape), where=rest_images > 0)
    least = np.divide(1, images, out=np.full(hits.shape, np.nan), where=images > 0)
    return np.minimum(np.maximum(rest, least), 1)


def _discovered(chance: Float[np.ndarray, " pair"], level: float) -> Bool[np.ndarray, " pair"]:
    return np.asarray(false_discovery_control(chance) <= level) if len(chance) else np.zeros(0, bool)


def _verdicts(found: Evidence, speaks: Bool[np.ndarray, "pair signal"], level: float) -> Int[np.ndarray, " pair"]:
    confused, inside = speaks[:, 0], np.asarray(speaks[:, 1:].any(axis=1))
    asked = np.flatnonzero(confused)
    alone, others = np.floor(found.head_only[asked] + 1e-9), np.ceil(found.features_only[asked] - 1e-9)
    head = np.zeros(len(found), bool)
    head[asked] = _discovered(binom.sf(alone - 1, alone + others, 0.5), level)
    verdict = np.where(inside, CLOSE, APART)
    verdict[confused] = np.where(inside[confused], REPRESENTATION, INCONCLUSIVE)
    verdict[head] = HEAD
    verdict[~found.enough] = INCONCLUSIVE
    return verdict.astype(np.int8)


def _ranks(found: Evidence) -> tuple[Float[np.ndarray, "pair signal"], Float[np.ndarray, " pair"]]:
    rank, joint = np.full(found.value.shape, np.nan), np.full(len(found), np.nan)
    if found.enough.any():
        rank[found.enough] = rankdata(mixedness(found.value[found.enough]), axis=0)
        joint[found.enough] = rankdata(rank[found.enough].mean(axis=1))
    return rank, joint


def mixedness(value: Float[np.ndarray, "pair signal"]) -> Float[np.ndarray, "pair signal"]:
    """The signals turned so that the smallest is the most mixed: much confusion, little separation, many links."""
    return value * np.array([-1.0, 1.0, -1.0])
