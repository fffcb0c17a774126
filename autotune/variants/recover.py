"""Recovery after pruning: the smaller module learns to answer as the original one does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.data.dataset import Dataset
from autotune.errors import Unstable
from autotune.spec.inputs import InputSpec
from autotune.spec.model import RecoverySpec

_FEATURE_WEIGHT = 10.0
"""Weight of inner layers against the outputs. ResNet-20 / CIFAR-10, half of the inner channels gone by weight norm, 500 images,
3×4 epochs, one seed each: 0 → 76.6 %, 1 → 77.8 %, 3 → 78.9 %, 10 → 80.0 % top-1 (fp32 87.8 %); KL divergence of the outputs at
temperature 4, without inner layers, 74.5 %. Chosen on the 2500 images that gave these figures (standard error 0.8 points)."""
_MAX_GRADIENT_NORM = 1.0
"""With BatchNorm folded into the weights nothing else bounds a step; 1 and 10 both gave 82.2 % (rate 2e-3, 12 epochs)."""
_WARMUP_STEPS = 10
_N_JUDGED = 256
_SHIFT_SHARE = 16
"""Images are shifted by up to 1/16 of their size. In the setting above with weight 1: shifted and mirrored 77.8 %, only shifted
77.2 %, neither 77.0 %: within noise. Images under 16 pixels are not shifted: on 8×8 digits a pixel cost a lot (ratio 0.75,
3×10 epochs: 57.6 % with, 86.3 % without)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a recovery reads: `data`, the model's inputs in order, and the layers to compare (names in both modules)."""

    data: Dataset
    inputs: tuple[InputSpec, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """How a recovery ended. `epochs` may be a fraction where the time was up; `helped` is False where it was undone.

    `loss_before` and `loss`: on the same samples, unvaried.
    """

    epochs: float
    loss_before: float
    loss: float
    helped: bool


def recover(
    student: Any,
    teacher: Any,
    lesson: Lesson,
    spec: RecoverySpec,
    *,
    seed: int,
    max_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Recovered:
    """`student` has been trained towards `teacher` for `spec.epochs`, or until `max_s` seconds are up, whichever comes first.

    The loss is the mean squared difference of the outputs, and of every layer that has kept its width, each divided by the
    variance of the teacher's; no labels are needed, and outputs need not be logits. Training that did not lower it is undone.
    Both modules are in evaluation mode throughout: statistics of BatchNorm stay, its scale and shift learn. The same seed
    gives the same weights on the same machine unless the time ends it. Raises Unstable where the loss is not finite.
    """
    original = {name: value.detach().clone() for name, value in student.state_dict().items()}
    with _features(student, lesson.layers) as ours, _features(teacher, lesson.layers) as theirs:
        comparison = _Comparison(student=student, teacher=teacher, layers=lesson.layers, ours=ours, theirs=theirs)
        before = _mean_loss(comparison, lesson, spec.batch_size)
        epochs = _train(comparison, lesson, spec, seed=seed, max_s=max_s, clock=clock)
        after = _mean_loss(comparison, lesson, spec.batch_size)
    helped = after < before
    if not helped:
        student.load_state_dict(original)
    return Recovered(epochs=epochs, loss_before=before, loss=min(after, before), helped=helped)


def same_width(student: Any, teacher: Any) -> tuple[str, ...]:
    """Names of the convolutions and products that still have the width they have in the teacher."""
    originals = dict(teacher.named_modules())
    names = []
    for name, layer in student.named_modules():
        weight = getattr(layer, "weight", None)
        if weight is None or weight.dim() < 2 or getattr(layer, "groups", 1) > 1 or getattr(layer, "transposed", False):
            continue
        if weight.shape[0] == originals[name].weight.shape[0]:
            names.append(name)
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """Two modules and, after each pass, the results of their common layers."""

    student: Any
    teacher: Any
    layers: tuple[str, ...]
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]

    def loss(self, batch: Sequence[Any]) -> Any:
        """How far the student is from the teacher on one batch: a scalar tensor."""
        import torch

        with torch.no_grad():
            wanted = _listed(self.teacher(*batch))
        loss = _difference(_listed(self.student(*batch)), wanted)
        if self.layers:
            inner = _difference([self.ours[k] for k in self.layers], [self.theirs[k] for k in self.layers])
            loss = loss + _FEATURE_WEIGHT * inner
        return loss


def _train(
    comparison: _Comparison, lesson: Lesson, spec: RecoverySpec, *, seed: int, max_s: float, clock: Callable[[], float]
) -> float:
    """The epochs done."""
    import torch

    rng = np.random.default_rng(seed)
    weights = [p for p in comparison.student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=spec.learning_rate)
    n_batches = math.ceil(len(lesson.data) / spec.batch_size)
    n_steps, begin = spec.epochs * n_batches, clock()
    for step in range(n_steps):
        progress = max(step / n_steps, (clock() - begin) / max_s)
        if progress >= 1:
            return step / n_batches
        if step % n_batches == 0:
            order = rng.permutation(len(lesson.data))
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * _rate(step, progress)
        start = step % n_batches * spec.batch_size
        loss = comparison.loss(_varied(_batch(lesson, order[start : start + spec.batch_size]), rng))
        _require_finite(float(loss.detach()), step, spec)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, _MAX_GRADIENT_NORM)
        optimizer.step()
    return float(spec.epochs)


def _require_finite(loss: float, step: int, spec: RecoverySpec) -> None:
    if not math.isfinite(loss):
        raise Unstable(
            f"recovery diverged at step {step + 1} with recovery.learning_rate={spec.learning_rate:g}: the loss is {loss}; "
            f"a lower learning rate may help",
            stage="prune",
        )


def _mean_loss(comparison: _Comparison, lesson: Lesson, batch_size: int) -> float:
    """The loss on up to _N_JUDGED samples, evenly spread and unvaried."""
    import torch

    n_judged = min(len(lesson.data), _N_JUDGED)
    chosen = np.linspace(0, len(lesson.data) - 1, n_judged).round().astype(np.intp)
    with torch.no_grad():
        parts = [chosen[i : i + batch_size] for i in range(0, n_judged, batch_size)]
        return sum(float(comparison.loss(_batch(lesson, part))) * len(part) for part in parts) / n_judged


def _rate(step: int, progress: float) -> float:
    """Share of the learning rate: a short linear warm-up, then half a cosine down to 0."""
    return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))


def _difference(found: Sequence[Any], wanted: Sequence[Any]) -> Any:
    """Mean over the tensors of their squared differences relative to the wanted one's variance."""
    import torch.nn.functional as functional

    terms = [functional.mse_loss(f, w) / (w.var() + 1e-8) for f, w in zip(found, wanted, strict=True)]
    return sum(terms) / len(terms)


def _batch(lesson: Lesson, chosen: NDArray[np.intp]) -> list[Any]:
    import torch

    arrays = lesson.data.take(chosen)
    return [torch.from_numpy(np.ascontiguousarray(arrays[s.name].astype(s.dtype, copy=False))) for s in lesson.inputs]


def _varied(batch: list[Any], rng: np.random.Generator) -> list[Any]:
    """Images shifted a little, and those in colour mirrored at random; the teacher is asked about the same images.

    Anything but one floating-point tensor of four dimensions stays as it is.
    """
    import torch
    import torch.nn.functional as functional

    if len(batch) != 1 or batch[0].dim() != 4 or not batch[0].is_floating_point():
        return batch
    images = batch[0]
    height, width = images.shape[2:]
    y, x = height // _SHIFT_SHARE, width // _SHIFT_SHARE
    down, right = int(rng.integers(0, 2 * y + 1)), int(rng.integers(0, 2 * x + 1))
    padded = functional.pad(images, (x, x, y, y))
    shifted = padded[:, :, down : down + height, right : right + width]
    if images.shape[1] == 3:
        mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)[:, None, None, None]
        shifted = torch.where(mirrored, shifted.flip(3), shifted)
    return [shifted.contiguous()]


@contextmanager
def _features(module: Any, layers: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """A map that holds the named layers' results after every forward pass."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            seen[name] = output

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _listed(outputs: Any) -> list[Any]:
    found = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [o for o in found if o.is_floating_point()]
