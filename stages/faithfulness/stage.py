"""Whether heatmaps are to be believed: every attribution method is put to the same tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..attributions.baselines import Baseline
from ..attributions.method import Method
from ..contract import Ask, Leaf, Partial, Result, Stage, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..specs import ArraySpec, SizedArray, Summary
from .curves import step_counts
from .judgements import findings, judge, measurements, notes
from .measures import Protocol, Trial, check_maps, expected_maps, grain_of, measure
from .sampling import spread_sample

if TYPE_CHECKING:
    from ..network.batch import Batch

#: Images of one task: they share one draw of random weights, and a few draws say more than one.
_TOGETHER = 16

IMAGE = ArraySpec("image", ("sample",), "int64", "1", "Position of the image in the data set; -1: row not used.")
TARGET = ArraySpec("target", ("sample",), "int32", "class", "Class whose heatmap is judged.")
SHARE = ArraySpec("share", ("step",), "float64", "1", "Share of the positions replaced at each point of a curve.")
DELETION = ArraySpec(
    "deletion", ("sample", "map", "step"), "float32", "1",
    "Probability of the target while the positions the heatmap ranks highest are removed first.",
)  # fmt: skip
INSERTION = ArraySpec(
    "insertion", ("sample", "map", "step"), "float32", "1",
    "Probability of the target while the same positions come back first into the blurred image.",
)  # fmt: skip
CHANCE_DELETION = ArraySpec(
    "chance_deletion", ("sample", "step"), "float32", "1",
    "Deletion in a random order of the heatmap's grain: scattered positions, or coherent patches.",
)  # fmt: skip
CHANCE_INSERTION = ArraySpec(
    "chance_insertion", ("sample", "step"), "float32", "1",
    "Insertion in a random order of the same grain.",
)  # fmt: skip
RANDOMISATION = ArraySpec(
    "randomisation", ("sample", "map", "level"), "float32", "1",
    "Rank correlation of the heatmap's magnitudes with those under random weights; later levels, more of them random.",
)  # fmt: skip
SSIM = ArraySpec(
    "ssim", ("sample", "map", "level"), "float32", "1",
    "Structural similarity of the same magnitudes, as shares of their largest.",
)  # fmt: skip
SENSITIVITY = ArraySpec(
    "sensitivity", ("sample", "map"), "float32", "1",
    "Largest relative change of the heatmap under a few draws of small noise.",
)  # fmt: skip
REGION = ArraySpec(
    "region", ("sample",), "float32", "1", "Share of the image that its box or mask takes; NaN without one."
)
POINTING = ArraySpec(
    "pointing",
    ("sample", "map"),
    "float32",
    "1",
    "1 where the largest value of the heatmap lies in the box or mask or within the tolerance beside it, else 0.",
)
INSIDE = ArraySpec(
    "inside", ("sample", "map"), "float32", "1", "Share of the evidence for the target that lies in the box or mask."
)
OVERLAP = ArraySpec(
    "overlap", ("sample", "map"), "float32", "1", "Intersection over union of Otsu's mask and the box or mask."
)


@dataclass(frozen=True)
class Faithfulness(Stage):
    """Tests of every configured attribution method, on the first of its targets.

    Parameters
    ----------
    methods
        Those of `attributions`.
    images
        How many images at most, evenly over right and wrong answers and over predicted classes.
    steps
        Parts in which positions are removed and inserted.
    removed
        What stands where a position was removed: ``"zero"``, ``"black"``, ``"mean"`` or ``"blur"``. Insertion starts
        from the blurred image in any case.
    blur
        Standard deviation of the blur, as a share of the longest axis.
    levels
        Steps of parameter randomisation, from the layer of the logits alone to all layers; 0 leaves it out.
    similar
        Rank correlation between heatmaps with trained and with random weights from which on a method fails; the layer
        of the logits alone does not count.
    samples
        Draws of noise per image; 0 leaves them out.
    noise
        Largest noise, as a share of the distance between an image's smallest and largest value.
    tolerance
        How far beside a box or mask a heatmap may point, in pixels of the input; None: 3 % of its longest axis.
    """

    methods: Mapping[str, Any]
    images: int = 64
    steps: int = 16
    removed: Baseline = "zero"
    blur: float = 0.1
    levels: int = 5
    similar: float = 0.5
    samples: int = 4
    noise: float = 0.02
    tolerance: int | None = None

    name: ClassVar[str] = "faithfulness"

    def __post_init__(self) -> None:
        for key, method in self.methods.items():
            if not isinstance(method, Method):
                raise ConfigError(f"faithfulness.methods.{key}: expected an attribution method, got {method!r}")
        for key, least in (("images", 1), ("steps", 2), ("levels", 0), ("samples", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"faithfulness.{key}: expected {least} or more, got {getattr(self, key)}")
        if self.tolerance is not None and self.tolerance < 0:
            raise ConfigError(f"faithfulness.tolerance: expected 0 or more pixels, got {self.tolerance}")
        for key in ("blur", "similar", "noise"):
            if not 0 < getattr(self, key) <= 1:
                raise ConfigError(f"faithfulness.{key}: expected above 0, at most 1, got {getattr(self, key)}")

    def leaves(self) -> tuple[Leaf, ...]:
        """One per method."""
        protocol = Protocol(**{field.name: getattr(self, field.name) for field in fields(Protocol)})
        return tuple(FaithfulnessLeaf(key, method, protocol) for key, method in self.methods.items())


@dataclass(frozen=True)
class FaithfulnessLeaf(Leaf):
    """The tests of one method."""

    key: str
    method: Method
    protocol: Protocol

    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        IMAGE, TARGET, SHARE, DELETION, INSERTION, CHANCE_DELETION, CHANCE_INSERTION, RANDOMISATION, SSIM,
        SENSITIVITY, REGION, POINTING, INSIDE, OVERLAP,
    )  # fmt: skip

    @property
    def name(self) -> str:
        """Stage and method."""
        return f"faithfulness/{self.key}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings of the method and of the tests."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the network answers, to choose images by."""
        return ("predictions",)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """As many rows as images may be chosen; how many are is known only when there are predictions."""
        lengths = {
            "sample": min(self.protocol.images, subject.n_image),
            "map": expected_maps(self.method, subject),
            "step": self.protocol.steps + 1,
            "level": self.protocol.levels,
        }
        return tuple(spec.sized(tuple(lengths[dim] for dim in spec.dims)) for spec in self.documents)

    def asks(self, subject: Subject) -> Ask:
        """What the method asks."""
        return self.method.asks(subject)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """A few images at a time, each time with other random weights."""
        chosen = spread_sample(
            subject.image_id,
            np.asarray(subject.label),
            np.asarray(stored["predictions/predicted"][:]),
            self.protocol.images,
            subject.seed,
            wrong_only=self.method.images == "wrong" or self.method.target == "contrast",
        ).tolist()
        parts = [tuple(chosen[start : start + _TOGETHER]) for start in range(0, len(chosen), _TOGETHER)]
        return [Task(self.name, part, argument={"draw": draw}) for draw, part in enumerate(parts)]

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Put the method to all tests on these images."""
        target = self.method.targets(subject)[0]
        usable = np.flatnonzero(batch.target_class(target) >= 0)
        if not len(usable):
            return Result()
        trial = Trial(self.method, target, batch.only(usable), subject, self.protocol)
        found = measure(trial, task)
        check_maps(self.name, found["maps"], expected_maps(self.method, subject))
        return Result(partial=found)

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain rows; what belongs to the method and not to images is the same in both."""
        whole = {key: value for key, value in first.items() if _shared(key)}
        return whole | {key: np.concatenate([first[key], second[key]]) for key in first if not _shared(key)}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Average, judge, and say what stands out."""
        del stored
        arrays = {array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in self.writes(subject)}
        counts = step_counts(math.prod(subject.input_shape[1:]), self.protocol.steps)
        arrays["share"] = counts / counts[-1]
        if not partials:
            return Summary(arrays, notes={"randomisation": "not measured", "maps": {}, "n": 0})
        rows = reduce(self.combine, partials)
        for path, values in arrays.items():
            if path in rows:
                values[: len(rows["image"])] = rows[path]
        limit = self.protocol.similar
        judged = [judge(rows, counts, place, limit) for place in range(len(rows["maps"]))]
        return Summary(
            arrays,
            measurements(self.name, judged),
            findings(self.name, judged, limit),
            notes(judged, rows, grain_of(self.method), limit),
        )


def _shared(key: str) -> bool:
    return key == "maps" or key.startswith("level_")
