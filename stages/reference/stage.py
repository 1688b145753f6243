"""Trains the model that is audited when nobody brings one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..numerics.statistics import wilson
from ..specs import ArraySpec, Finding, Measurement, SizedArray, Summary

if TYPE_CHECKING:
    from torch import Tensor

LOSS = ArraySpec("loss", ("epoch",), "float32", "nat", "Mean cross-entropy of the training images.")
ACCURACY = ArraySpec("accuracy", ("epoch",), "float32", "1", "Share of test images that are right after the epoch.")
PARAMETER = ArraySpec(
    "parameter/{name}", ("*space",), "float32", "1", "A tensor of the trained model; its axes are numbered."
)


@dataclass(frozen=True)
class Reference(SoleLeaf):
    """A small network for scikit-learn's handwritten digits.

    Parameters
    ----------
    epochs, batch, learning_rate
        How long, in what portions and how fast it learns.
    seed, threads
        Fixed, so that the weights come out the same; threads never follow the machine.
    min_accuracy
        Test accuracy below which something is wrong with the training itself.
    """

    epochs: int = 12
    batch: int = 32
    learning_rate: float = 0.01
    seed: int = 0
    threads: int = 1
    min_accuracy: float = 0.97

    name: ClassVar[str] = "reference"
    documents: ClassVar[tuple[ArraySpec, ...]] = (LOSS, ACCURACY, PARAMETER)

    def __post_init__(self) -> None:
        for field in ("epochs", "batch", "threads"):
            if getattr(self, field) < 1:
                raise ConfigError(f"reference.{field}: expected 1 or more, got {getattr(self, field)}")
        if not self.learning_rate > 0:
            raise ConfigError(f"reference.learning_rate: expected more than 0, got {self.learning_rate}")
        if not 0 <= self.min_accuracy <= 1:
            raise ConfigError(f"reference.min_accuracy: expected 0 to 1, got {self.min_accuracy}")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The curves and every parameter."""
        del subject
        parameters = [
            PARAMETER.sized(shape, tuple(f"axis{i}" for i in range(len(shape))), name=name)
            for name, shape in _shapes().items()
        ]
        return (LOSS.sized((self.epochs,)), ACCURACY.sized((self.epochs,)), *parameters)

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Train."""
        del task, subject, stored
        from .digits import load_digits_split
        from .train import train

        images, labels, is_test = load_digits_split()
        trained = train(
            images,
            labels,
            is_test,
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            seed=self.seed,
            threads=self.threads,
        )
        parameters = {f"parameter/{name}": array for name, array in trained.parameters.items()}
        counts = {"correct": np.asarray(trained.correct), "tested": np.asarray(trained.tested)}
        return Result(partial={"loss": trained.loss, "accuracy": trained.accuracy, **parameters, **counts})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """The arrays as they are, and whether the training did what it should."""
        del subject, stored
        (trained,) = partials
        correct, tested = int(trained["correct"]), int(trained["tested"])
        low, high = wilson(correct, tested)
        measurement = Measurement(
            "reference/accuracy",
            correct / tested,
            "1",
            "higher",
            tested,
            "reference/accuracy",
            "Share of held-out digits that are right after the last epoch. Bounds: Wilson, 95 %.",
            low,
            high,
        )
        arrays = {path: array for path, array in trained.items() if path not in ("correct", "tested")}
        return Summary(arrays, (measurement,), self._findings(correct, tested), dict(self.config))

    def _findings(self, correct: int, tested: int) -> tuple[Finding, ...]:
        if correct >= self.min_accuracy * tested:
            return ()
        return (
            Finding(
                "reference/undertrained",
                "error",
                f"the default model is right on {correct} of {tested} test digits",
                f"Expected at least {self.min_accuracy:.0%}; check reference.epochs and reference.learning_rate.",
            ),
        )


def state_dict_from(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Turn stored parameters into a state dict that `DigitsNet` loads strictly.

    Parameters
    ----------
    arrays
        Tensors by name, without the ``parameter/`` in front.

    Returns
    -------
    dict[str, Tensor]
        With a zero for each batch norm's count of batches, which is not stored because eval mode never reads it.
    """
    import torch

    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    norms = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    return state | {f"{norm}num_batches_tracked": torch.zeros((), dtype=torch.int64) for norm in norms}


def _shapes() -> dict[str, tuple[int, ...]]:
    import torch

    from .net import DigitsNet

    # Without memory and without drawing random numbers.
    with torch.device("meta"):
        state = DigitsNet().state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if value.is_floating_point()}
