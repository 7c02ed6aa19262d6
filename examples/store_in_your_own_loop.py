"""Patches of a store in a training loop of your own: python examples/store_in_your_own_loop.py STORE.h5 [STEPS].

STORE.h5: of `chi33 build-dataset`. A network of one convolution learns chi33 from the local field, by plain PyTorch.
"""

from __future__ import annotations

import sys
from itertools import islice

import chi33
import torch


def main(path: str, steps: int = 4) -> None:
    """Train for some steps and print the loss of each."""
    store = chi33.open_store(path)
    print(f"{len(store.volumes)} volumes")
    data = chi33.StoreDataModule(path, chi33.LoaderConfig(batch_size=2))
    data.setup("fit")
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 5, padding=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step, batch in enumerate(islice(data.train_dataloader(), steps)):
        loss = torch.nn.functional.mse_loss(network(batch["field"]) * batch["mask"], batch["chi33"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {float(loss):.3g}")


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:3]))
