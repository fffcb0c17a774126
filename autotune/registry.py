"""Names that study files may use, and the code behind them, loaded when first asked for.

This is the only dispatch in the package: an engine, a metric, an export target or a sampler is one line here, or an
entry point of another distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from autotune.errors import SpecError, SpecProblem


class Registry:
    """Lazy map from a name to an object given by its dotted path `module:attribute`. Outsiders register by entry point."""

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._paths = dict(builtin)

    def names(self) -> tuple[str, ...]:
        """Every known name, ours first, without loading any."""
        outside = (e.name for e in entry_points(group=self.group))
        return tuple(dict.fromkeys((*self._paths, *outside)))

    def own_names(self) -> tuple[str, ...]:
        """The names that run without being asked for: ours and added ones. Code of others runs only where it is named."""
        return tuple(self._paths)

    def add(self, name: str, path: str) -> None:
        """`name` now means the object at `path`; for tests and for programs that embed autotune."""
        self._paths[name] = path

    def load(self, name: str) -> Any:
        """The object behind `name`. Raises SpecError naming what is known."""
        if name in self._paths:
            return load_object(self._paths[name])
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return entry.load()
        raise SpecError([SpecProblem(key=self.kind, found=repr(name), allowed=", ".join(self.names()))])


def load_object(path: str) -> Any:
    """The object at `module:attribute`. Raises ImportError or AttributeError as the import does."""
    module, _, attribute = path.partition(":")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


ENGINES = Registry(
    "engines",
    "autotune.engines",
    {
        "onnxruntime": "autotune.engines.onnxruntime_cpu:OnnxRuntimeCpu",
        "openvino": "autotune.engines.openvino_cpu:OpenVinoCpu",
        "onnxruntime-cuda": "autotune.engines.onnxruntime_cuda:OnnxRuntimeCuda",
        "onnxruntime-tensorrt": "autotune.engines.onnxruntime_tensorrt:OnnxRuntimeTensorRt",
        "tensorrt": "autotune.engines.tensorrt_backend:TensorRt",
        "tensorrt-rtx": "autotune.engines.tensorrt_backend:TensorRtRtx",
        "torch": "autotune.engines.torch_cpu:TorchCpu",
        "torch-compile": "autotune.engines.torch_cpu:TorchCompileCpu",
        "torch-cuda": "autotune.engines.torch_cuda:TorchCuda",
        "torch-cuda-graph": "autotune.engines.torch_cuda:TorchCudaGraph",
        "torch-cuda-compile": "autotune.engines.torch_cuda:TorchCudaCompile",
        "fake": "autotune.engines.fake:FakeBackend",
    },
)
METRICS = Registry(
    "data.metric",
    "autotune.metrics",
    {
        "top1": "autotune.bench.metrics:top1",
        "top5": "autotune.bench.metrics:top5",
        "mse": "autotune.bench.metrics:negative_mse",
        "spearman_pairs": "autotune.bench.metrics:spearman_pairs",
    },
)
RUNTIMES = Registry(
    "cuda_runtime",
    "autotune.cuda_runtimes",
    {
        "cuda-core": "autotune.cuda.cuda_core:CudaCoreRuntime",
        "torch": "autotune.cuda.torch_runtime:TorchRuntime",
        "pycuda": "autotune.cuda.pycuda_runtime:PycudaRuntime",
        "host": "autotune.cuda.host:HostRuntime",  # a double for tests, by this name only
    },
)
STRATEGIES = Registry(
    "search.strategy",
    "autotune.strategies",
    {
        "cost-aware": "autotune.study.cost_aware:cost_aware",
        "gp": "autotune.study.strategy:gaussian_processes",
        "tpe": "autotune.study.strategy:parzen_estimators",
        "nsga2": "autotune.study.strategy:genetic",
        "random": "autotune.study.strategy:uniform",
    },
)
LAUNCHERS = Registry(
    "launcher",
    "autotune.launchers",
    {"local": "autotune.fleet.local:local_launcher", "ray": "autotune.fleet.ray_cluster:ray_launcher"},
)
EXPORTERS = Registry(
    "export target",
    "autotune.exporters",
    {"onnxruntime": "autotune.export.onnxruntime_target:export", "openvino": "autotune.export.openvino_target:export"},
)
MANIFESTS = Registry(
    "manifest",
    "autotune.manifests",
    {
        "systemd": "autotune.fleet.systemd:manifest",
        "kubernetes": "autotune.fleet.kubernetes:manifest",
        "slurm": "autotune.fleet.slurm:manifest",
    },
)
