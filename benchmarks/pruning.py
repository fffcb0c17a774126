"""What channel pruning costs in accuracy and gains in speed, on a digits network and on ResNet-20.

    python benchmarks/pruning.py [--models ../shared/data] [--out pruning.json] [--epochs 20] [--ratios 0.25 0.5 0.75]

The digits network is trained here in seconds (scikit-learn's 8×8 digits; recovery uses its training split). ResNet-20
for CIFAR-10 is read from the folder of models, where there is one; recovery uses its 500 calibration images, without labels.
Throughput is that of ONNX Runtime on one thread in a plain loop; original and pruned model take turns, medians of the rounds.
Close other programs first: the figures mean nothing on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.spec.model import ModelSpec, PreprocessSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.variant import ModelVariant, QuantScheme

_BATCH = 64
_ROUNDS = 15
_ROUND_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model with the data to prune and to judge it."""

    name: str
    model: Path
    train: Dataset
    validation: Dataset
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. Throughputs in samples per second, `speedup` the median of the rounds' quotients."""

    model: str
    ratio: float
    params: int
    macs: int | None
    achieved_pruning: float
    top1_original: float
    top1_pruned: float
    top1_recovered: float
    throughput_original: float
    throughput_pruned: float
    speedup: float
    recovery_s: float
    notes: tuple[str, ...]


def main() -> None:
    """The table is printed, and written to --out as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=20, help="of recovery, after each of three steps")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(arguments.models, Path(folder)):
            for ratio in arguments.ratios:
                rows.append(row(case, ratio, arguments.epochs, Cache(Path(folder) / "cache")))
                print(formatted(rows[-1], header=len(rows) == 1), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(r) for r in rows], indent=1))


def cases(models: Path, scratch: Path) -> list[Case]:
    """The digits network, and ResNet-20 where its files are."""
    found = [digits(scratch)]
    folder = models / "cifar10"
    if (folder / "resnet20_cifar10.onnx").exists():
        scaling = PreprocessSpec(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        splits = {split: np.load(folder / f"{split}.npz") for split in ("calib", "val")}
        train, validation = (
            Dataset(arrays={"input": s["x"]}, labels=s["y"], preprocess=scaling, digest=name) for name, s in splits.items()
        )
        path = folder / "resnet20_cifar10.onnx"
        found.append(Case(name="resnet20-cifar10", model=path, train=train, validation=validation, learning_rate=2e-3))
    else:
        print(f"resnet20-cifar10: left out, {folder} has no resnet20_cifar10.onnx")
    return found


def digits(scratch: Path, epochs: int = 30) -> Case:
    """A convolutional network trained on two thirds of scikit-learn's digits."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[: 2 * len(order) // 3], "validation": order[2 * len(order) // 3 :]}
    train, validation = (
        Dataset(arrays={"input": images[i]}, labels=data.target[i], preprocess=None, digest=f"digits-{k}")
        for k, i in parts.items()
    )

    def block(n_in: int, n_out: int) -> list[Any]:
        return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    net = nn.Sequential(*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), *head)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    x, y = torch.from_numpy(train.arrays["input"]), torch.from_numpy(train.labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
    path = scratch / "digits.onnx"
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(net.eval(), (x[:2],), str(path), dynamo=False, dynamic_axes=axes, **names)
    return Case(name="digits-cnn", model=path, train=train, validation=validation, learning_rate=5e-3)


def row(case: Case, ratio: float, epochs: int, cache: Cache) -> Row:
    """Original, pruned only, and pruned with recovery, measured on the validation split."""
    original = variant(case, 0.0, 0, cache)
    bare = variant(case, ratio, 0, cache)
    start = time.monotonic()
    recovered = variant(case, ratio, epochs, cache)
    recovery_s = time.monotonic() - start
    rates = throughputs([original.path, recovered.path], case.validation)
    return Row(
        model=case.name,
        ratio=ratio,
        params=recovered.info.params,
        macs=recovered.info.macs,
        achieved_pruning=recovered.info.achieved_pruning,
        top1_original=top1(original.path, case.validation),
        top1_pruned=top1(bare.path, case.validation),
        top1_recovered=top1(recovered.path, case.validation),
        throughput_original=statistics.median(a for a, _ in rates),
        throughput_pruned=statistics.median(b for _, b in rates),
        speedup=statistics.median(b / a for a, b in rates),
        recovery_s=recovery_s,
        notes=recovered.info.notes,
    )


def variant(case: Case, ratio: float, epochs: int, cache: Cache) -> ModelVariant:
    """The fp32 variant of a case."""
    request = VariantRequest(
        model=ModelSpec(path=case.model),
        precision="fp32",
        pruning_ratio=ratio,
        scheme=QuantScheme(),
        recovery=RecoverySpec(epochs=epochs, steps=3 if epochs else 1, learning_rate=case.learning_rate),
        seed=0,
    )
    return make_variant(request, None, case.train, cache)[0]


def session(path: Path) -> Any:
    """The model on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def top1(path: Path, data: Dataset) -> float:
    """Share of samples whose largest output is at the label."""
    runner = session(path)
    batches = [data.batch(i, i + _BATCH) for i in range(0, len(data), _BATCH)]
    found = np.concatenate([runner.run(None, batch)[0].argmax(1) for batch in batches])
    return float((found == data.labels).mean())


def throughputs(paths: list[Path], data: Dataset) -> list[tuple[float, ...]]:
    """Samples per second of each model in each round; the models take turns within a round."""
    runners, batch = [session(p) for p in paths], data.batch(0, _BATCH)
    rounds = []
    for _ in range(_ROUNDS + 1):
        rates = []
        for runner in runners:
            begin, count = time.monotonic_ns(), 0
            while (now := time.monotonic_ns()) - begin < _ROUND_S * 1e9:
                runner.run(None, batch)
                count += _BATCH
            rates.append(count / ((now - begin) / 1e9))
        rounds.append(tuple(rates))
    return rounds[1:]  # the first round warms up


def formatted(found: Row, *, header: bool) -> str:
    """A line of the table, under its header if asked for."""
    line = (
        f"{found.model:18} {found.ratio:5.2f} {found.params:9d} {found.macs or 0:10d} {found.top1_original:9.2%} "
        f"{found.top1_pruned:9.2%} {found.top1_recovered:10.2%} {found.throughput_original:11.0f} "
        f"{found.throughput_pruned:11.0f} {found.speedup:7.2f}x {found.recovery_s:8.1f}"
    )
    titles = (
        f"{'model':18} {'ratio':>5} {'params':>9} {'MACs':>10} {'original':>9} {'pruned':>9} {'recovered':>10} "
        f"{'original/s':>11} {'pruned/s':>11} {'speed-up':>8} {'prune s':>8}"
    )
    return f"{titles}\n{line}" if header else line


if __name__ == "__main__":
    main()
