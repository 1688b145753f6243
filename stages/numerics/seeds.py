"""Random numbers that depend on (seed, image, purpose) alone, never on the place in a batch or on the worker."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stable_seed(seed: int, name: str, purpose: str) -> int:
    """Hash what a random number is for into the start of its own stream.

    Parameters
    ----------
    seed
        Root of every random number of the run.
    name
        Stable name of an image, layer or whatever the numbers belong to.
    purpose
        Who draws: two purposes never share a stream.

    Returns
    -------
    int
        In 0 .. 2**63 - 1, the same in every process and on every machine.
    """
    # Lengths keep ("ab", "c") and ("a", "bc") apart, whatever the names contain.
    text = f"{seed}:{len(name)}:{name}:{len(purpose)}:{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, name: str, purpose: str) -> np.random.Generator:
    """A numpy generator of its own for (seed, name, purpose); see `stable_seed`."""
    return np.random.Generator(np.random.PCG64(stable_seed(seed, name, purpose)))


def torch_generator(seed: int, name: str, purpose: str) -> torch.Generator:
    """A torch generator on the CPU of its own for (seed, name, purpose); see `stable_seed`.

    Streams of different devices differ, so numbers are always drawn on the CPU and moved.
    """
    return torch.Generator().manual_seed(stable_seed(seed, name, purpose))
