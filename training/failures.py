"""What ends a training from below (memory, loader processes, an interrupt), as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..files.errors import InputError, StepError
from .config import TrainConfig

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


@contextmanager
def one_sentence(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Raise what PyTorch and Lightning raise within as StepError, InputError or KeyboardInterrupt.

    StepError where a step does not fit the memory or a loader process died; InputError as a loader process raised it,
    without its traceback.
    """
    try:
        yield
    except InputError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        # PyTorch puts the traceback of the process before the sentence
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, StepError):
            raise
        said = str(error)
        if isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY):
            raise StepError(
                f"a step needs more memory than {device} has: choose a batch_size below {config.batch_size}, smaller "
                "patches, or a smaller depth of the network."
            ) from error
        if "DataLoader worker" in said:
            raise StepError(
                f"one of {config.num_workers} loader processes died, most likely for want of memory: choose a smaller "
                "num_workers or cache_mb, then --resume continues."
            ) from error
        raise
    except SystemExit as error:  # of Lightning, at an interrupt before the first step
        raise KeyboardInterrupt from error
