"""A plugin of Lightning that raises what torch raises when a kernel fails, in as many processes as wanted.

Loaded by every worker that finds the folder of `install` on its PYTHONPATH.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from tests.failures import plugin


def install(folder: Path, errors: int) -> None:
    plugin.install(folder, "broken_gpu")
    for number in range(errors):
        (folder / f"{number}.error").touch()


class BrokenGpu(pl.Callback):
    """Every error breaks one process: its context answers nothing else from then on, as CUDA's does."""

    context_is_broken = False

    def on_train_epoch_start(self, *_: Any) -> None:
        for error in plugin.own_folder().glob("*.error"):
            if not BrokenGpu.context_is_broken:
                error.unlink(missing_ok=True)
                BrokenGpu.context_is_broken = True
        if BrokenGpu.context_is_broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def callbacks() -> list[pl.Callback]:
    return [BrokenGpu()]
