"""One fold on its device: samples, model, optimiser, random streams, and steps that never wait for the host."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation import draw_affine, identity_affine
from lightning_modules.classifier import FractureClassifier, epoch_seed, patient_auc

# cuDNN and cuBLAS choose and allocate in the first steps of a shape, which must not be recorded.
STEPS_BEFORE_RECORDING = 3


@dataclass(frozen=True)
class Samples:
    """What a fold trains on and is stopped by.

    patches: (N, 6, side, side) as stored, on the device to train on; shared by all folds.
    label: (N,), 1 is malignant. patient: (N,) integer codes. Both on the CPU.
    order: epoch to the rows of its samples, (samples,), a function of the epoch alone.
    batch_sizes: of an epoch's steps, in turn; their sum is `samples`.
    validation_rows: who decides the best epoch; empty for nobody.
    """

    patches: Tensor
    label: Tensor
    patient: Tensor
    order: Callable[[int], NDArray[np.int64]]
    batch_sizes: list[int]
    validation_rows: NDArray[np.int64]


class FoldTraining:
    """Trains one fold; several of them, stepped by turns in one process, do each what it would have done alone.

    Everything random is a function of the classifier's seed and the epoch: the order, the affines and dropout have
    streams of their own, set anew for each epoch, so that an epoch begun again in a new process gives the same bytes.
    On a GPU a fold whose steps are recorded has a stream of its own, on which they run beside other folds'.
    """

    def __init__(self, classifier: FractureClassifier, samples: Samples) -> None:
        self.samples = samples
        self.device = samples.patches.device
        self.classifier = classifier.to(self.device)
        self.optimizer = classifier.make_optimizer()
        self.epoch = 0
        self.is_over = False
        self._affines = torch.Generator()
        self._dropout = torch.Generator(self.device)
        self.classifier.network.dropout.generator = self._dropout
        count = sum(samples.batch_sizes)
        # Filled for each epoch; a step finds its samples at `_position`, which it moves on itself.
        self._order = torch.zeros(count, dtype=torch.long, device=self.device)
        self._thetas = torch.zeros(count, 2, 3, device=self.device)
        self._label = samples.label.to(self.device)
        self._offsets = torch.arange(max(samples.batch_sizes), device=self.device)
        self._position = torch.zeros((), dtype=torch.long, device=self.device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._steps = iter(samples.batch_sizes)
        recorded = self.device.type == "cuda" and classifier.arithmetic.cuda_graphs
        # Graphs captured on one stream share a cuBLAS workspace (pytorch/pytorch#193402), so each fold has its own; its
        # graphs, one for each batch size, never run at once and share their memory.
        self._stream = torch.cuda.Stream() if recorded else None  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle() if recorded else None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._taken: Counter[int] = Counter()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Where whatever touches this fold's tensors has to run: after what was asked for outside, and before it."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream()
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def begin_epoch(self) -> None:
        """Draws the epoch's order and affines, and sends them to the device at once."""
        seed = epoch_seed(self.classifier.seed, self.epoch)
        order = torch.from_numpy(self.samples.order(self.epoch))
        thetas = draw_affine(len(order), self.classifier.ranges, self._affines.manual_seed(seed))
        self._steps = iter(self.samples.batch_sizes)
        with self._on_stream():
            self._dropout.manual_seed(seed)
            self._order.copy_(order)
            self._thetas.copy_(thetas)
            self._position.zero_()
            self._loss.zero_()
        self.classifier.train()

    def step(self) -> None:
        """The epoch's next step; nothing once all are done."""
        size = next(self._steps, None)
        if size is None:
            return
        self._taken[size] += 1
        with torch.cuda.stream(self._stream):  # without one: where it is
            if self._stream is None or self._taken[size] <= STEPS_BEFORE_RECORDING:
                self._step(size)
                return
            if size not in self._graphs:
                self._graphs[size] = self._record(size)
            self._graphs[size].replay()

    def _record(self, size: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._dropout)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            self._step(size)
        return graph

    def _step(self, size: int) -> None:
        batch = self._position + self._offsets[:size]
        rows = self._order[batch]
        logits = self.classifier(self.samples.patches.index_select(0, rows), self._thetas[batch])
        loss = F.binary_cross_entropy_with_logits(logits, self._label[rows].to(logits.dtype))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._loss += loss.detach() * size
        self._position += size

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (R,) of `rows` (R,) of the patches, without augmentation and dropout."""
        self.classifier.eval()
        with self._on_stream(), torch.no_grad():
            parts = torch.split(rows.to(self.device), 4 * self.samples.batch_sizes[0])
            patches = (self.samples.patches.index_select(0, part) for part in parts)
            return torch.cat([self.classifier(each, identity_affine(len(each))) for each in patches])

    def end_epoch(self) -> dict[str, float]:
        """Means over the epoch's samples: train_loss (without the L2 term), inner_loss and inner_auc (per patient).

        The last two are NaN where nobody validates, the first where a weight is not finite. This waits for the device,
        once an epoch.
        """
        with self._on_stream(), torch.no_grad():
            # The last step's loss is that of the weights before it.
            sound = torch.stack([value.isfinite().all() for value in self.classifier.state_dict().values()]).all()
            train_loss = float(self._loss.where(sound, torch.nan)) / len(self._order)
        row = {"epoch": self.epoch, "train_loss": train_loss, "inner_loss": float("nan"), "inner_auc": float("nan")}
        self.epoch += 1
        rows = torch.from_numpy(self.samples.validation_rows)
        if len(rows):
            logit = self.logits(rows).cpu()
            label, patient = self.samples.label[rows].to(logit.dtype), self.samples.patient[rows]
            row["inner_loss"] = float(F.binary_cross_entropy_with_logits(logit, label))
            row["inner_auc"] = float(patient_auc(logit, label, patient))
        return row

    def weights(self) -> dict[str, Tensor]:
        """A copy of parameters and buffers, on the device."""
        with self._on_stream():
            return {name: value.clone() for name, value in self.classifier.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        with self._on_stream():
            self.classifier.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "weights": self.weights(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before the first step: recorded steps would go on with the old tensors."""
        self.epoch = state["epoch"]
        self.load_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
