"""A network for workers, which can import this file and no test."""

import os
import time

from torch import nn


class CountingNetwork(nn.Module):
    """Writes a file whenever it is unpacked, and is slow.

    Its features are its inputs.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder, self.head = folder, nn.Linear(6, 2).double()

    def __setstate__(self, state):
        super().__setstate__(state)
        (self.folder / f"{os.getpid()}-{time.time_ns()}").touch()

    def forward(self, X):
        time.sleep(0.05)
        return self.head(X)
