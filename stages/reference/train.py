"""Trains the default model: the same weights every time on one machine, and nothing of torch's state changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from .net import DigitsNet


@dataclass(frozen=True)
class Trained:
    """A trained `DigitsNet`.

    Parameters
    ----------
    parameters
        Everything of its state that a forward in eval mode reads, by name.
    loss
        Mean cross-entropy of the training images, per epoch, in nats.
    accuracy
        Share of the test images that are right after each epoch.
    correct, tested
        Test images that are right after the last epoch, and test images.
    """

    parameters: dict[str, np.ndarray]
    loss: Float[np.ndarray, " epoch"]
    accuracy: Float[np.ndarray, " epoch"]
    correct: int
    tested: int


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed torch, fix its threads and allow deterministic algorithms alone; all of it undone at the end."""
    before = torch.get_num_threads()
    strict, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(seed)
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)
            torch.set_num_threads(before)


def train(
    images: Float[np.ndarray, "image 1 y x"],
    labels: Int[np.ndarray, " image"],
    is_test: Bool[np.ndarray, " image"],
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    threads: int,
) -> Trained:
    """Train on the one part of the images and test on the other.

    Parameters
    ----------
    images
        Network input.
    labels
        Digit of each image.
    is_test
        Images that are not learnt from.
    epochs, batch, learning_rate
        Adam with a one-cycle schedule (Smith and Topin 2018) that peaks at `learning_rate`.
    seed, threads
        What the weights depend on beside all the above.
    """
    x, y = torch.from_numpy(np.ascontiguousarray(images, np.float32)), torch.from_numpy(labels.astype(np.int64))
    held_out = torch.from_numpy(np.asarray(is_test, bool))
    with reproducible(seed, threads):
        model = DigitsNet().to(memory_format=torch.channels_last)
        order = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        steps = epochs * -(-int((~held_out).sum()) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        loss, correct = [], []
        for _ in range(epochs):
            loss.append(_epoch(model, x[~held_out], y[~held_out], batch, optimizer, schedule, order))
            correct.append(_correct(model, x[held_out], y[held_out]))
    tested = int(held_out.sum())
    accuracy = np.asarray(correct, np.float32) / np.float32(tested)
    return Trained(_parameters(model), np.asarray(loss, np.float32), accuracy, correct[-1], tested)


def _epoch(
    model: DigitsNet,
    x: Tensor,
    y: Tensor,
    batch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    order: torch.Generator,
) -> float:
    """Learn from every image once, in random order; return the mean loss."""
    model.train()
    total = 0.0
    for chosen in torch.randperm(len(x), generator=order).split(batch):
        loss = F.cross_entropy(model(x[chosen].contiguous(memory_format=torch.channels_last)), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(chosen)
    return total / len(x)


def _correct(model: DigitsNet, x: Tensor, y: Tensor) -> int:
    model.eval()
    with torch.no_grad():
        return int((model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum())


def _parameters(model: DigitsNet) -> dict[str, np.ndarray]:
    state = model.state_dict()
    return {name: value.numpy().copy() for name, value in state.items() if value.is_floating_point()}
