"""Random draws that depend on a seed and on what they are for, whatever else is drawn before or beside them."""

from __future__ import annotations

import hashlib

import numpy as np


def named_generator(name: str, seed: int) -> np.random.Generator:
    """Return the random numbers of a name, such as a volume's id, and a seed."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])
