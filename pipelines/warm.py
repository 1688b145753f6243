"""What the process that local workers are forked from imports; nothing of it starts a thread, which a fork would lose.

The allocator is tuned before a worker has threads, since a thread keeps the arena that it was given.
"""

from __future__ import annotations

import torch as torch

from ..stages.network import sweep as sweep
from . import worker as worker
from .allocator import tune_allocator

tune_allocator()
