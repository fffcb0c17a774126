"""StudySpec: the study file as frozen, validated values. Unknown keys are refused; paths are absolute once loaded.

The shape of each section is checked here; what needs a look at other files (presets, the model, the data) is checked by
`spec.load`, which also knows the line of every key.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from autotune.candidate import KNOBS, Choices, Domain
from autotune.redact import url_without_secrets
from autotune.spec.positions import Positions
from autotune.spec.scenarios import LoadSpec as LoadSpec  # re-exported: a section like those below
from autotune.spec.section import Section

ObjectiveName = Literal["accuracy", "throughput", "latency_p99", "energy", "memory", "cost"]


CLASS_METRICS = ("top1", "top5")
"""The metrics that compare logits with one class number per sample; their scores are shares of the samples."""
PositiveInt = Annotated[int, Field(ge=1)]
Numbers = Annotated[tuple[float, ...], Field(min_length=1)]
DEVICE = r"^(auto|cpu|cuda(:\d+)?|fake(:\d+)?)$"
"""What a device may be called; fake:N is a simulated one, for tests of fleets on machines without accelerators."""


def see_users_modules(spec: StudySpec) -> None:
    """`module:function` of the study is looked for beside its file first, then wherever Python looks."""
    if spec.file is not None and (folder := str(spec.file.parent)) not in sys.path:
        sys.path.insert(0, folder)


class ModelSpec(Section):
    """Either an ONNX file (`path`), or a torch callable (`torch`, "module:function") with its `weights`."""

    path: Path | None = Field(None, description="an ONNX file")
    torch: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", description="module:callable that returns an nn.Module in eval mode"
    )
    weights: Path | None = Field(None, description="state dict: .safetensors, or a torch file loaded with weights_only")
    input_shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = Field(
        None, description="one sample's shape, without the batch"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.path is None) == (self.torch is None):
            raise ValueError("exactly one of path (an ONNX file) and torch (module:callable)")
        if self.path is not None and self.weights is not None:
            raise ValueError("weights only together with torch; an ONNX file carries its own")
        if self.torch is not None and self.input_shape is None:
            raise ValueError("torch together with input_shape, one sample's shape without the batch")
        return self


class SplitSpec(Section):
    """Labelled samples: an image folder with a CSV (file,label[,split]), or arrays in an .npz file."""

    images: Path | None = Field(None, description="folder of the images that the CSV names")
    labels: str | Path | None = Field(None, description="images: a CSV file; npz: the name of the label array")
    split: str | None = Field(None, description="rows of the CSV whose column `split` has this value")
    npz: Path | None = Field(None, description="an .npz file of arrays with equal first dimension")
    inputs: str | tuple[str, ...] | Mapping[str, str] | None = Field(
        None, description="npz: the input array, a list, or {model input: array}; default x"
    )
    limit: int | None = Field(None, ge=1, description="use only the first samples")

    @model_validator(mode="before")
    @classmethod
    def _labels_are_a_file(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("images") is not None and isinstance(values.get("labels"), str):
            return {**values, "labels": Path(values["labels"])}
        return values

    @model_validator(mode="after")
    def _one_source(self) -> SplitSpec:
        if (self.images is None) == (self.npz is None):
            raise ValueError("exactly one of images (a folder, with labels: a CSV) and npz (a file)")
        if self.images is not None and not isinstance(self.labels, Path):
            raise ValueError("images together with labels, a CSV file with the columns file,label[,split]")
        if self.images is not None and self.inputs is not None:
            raise ValueError("inputs only together with npz; images go to the model's only input")
        if self.npz is not None and (self.split is not None or isinstance(self.labels, Path)):
            raise ValueError("npz with inputs and labels as names of arrays, without split")
        return self


class PreprocessSpec(Section):
    """(pixel·scale − mean)/std on images, or on the arrays of an .npz; resize and crop are for images only."""

    color: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC", "none"] = Field("NCHW", description="none: arrays go in as they are stored")
    scale: float = 1.0
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="shorter side, or [height, width], bilinear"
    )
    crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="centre crop: side, or [height, width]"
    )

    @field_validator("std")
    @classmethod
    def _no_zero(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if any(s == 0 for s in std):
            raise ValueError("numbers other than 0")
        return std


class DataSpec(Section):
    """The labelled data that accuracy is measured on, and what calibration and recovery may use."""

    validation: SplitSpec
    calibration: SplitSpec | None = None
    train: SplitSpec | None = None
    preprocess: PreprocessSpec | None = None
    metric: str = Field("top1", description="a registered metric, or module:function")


class ConstraintsSpec(Section):
    """Limits that a configuration must keep to be a candidate for deployment."""

    accuracy_drop: float | None = Field(None, ge=0, description="at most this much under the unmodified model")
    accuracy: float | None = Field(None, description="at least this much")
    latency_p99_ms: float | None = Field(None, gt=0)
    throughput: float | None = Field(None, gt=0, description="at least this many items per second")
    memory_mib: float | None = Field(None, gt=0, description="peak memory under load, at most")


class BudgetSpec(Section):
    """When the search ends: whichever is reached first."""

    trials: int = Field(60, ge=1, le=100_000)
    hours: float | None = Field(None, gt=0)


class SearchSpec(Section):
    """How candidates are proposed."""

    strategy: str = Field("cost-aware", description="a registered strategy: cost-aware, gp, tpe, nsga2, random")


class FinalistsSpec(Section):
    """The best of the search, measured again at its end in fresh processes, interleaved with the reference; `off`: none are."""

    rounds: int = Field(5, ge=0, le=100, description="at most this often; fewer once the ranking is settled; 0: off")
    at_most: int = Field(8, ge=1, le=100, description="finalists, the reference not counted")
    precision: float = Field(
        0.025,
        gt=0,
        le=1,
        description="then the best and those closest to it go on until the 95 % interval of the best's mean is within this "
        "part of it and it is surely at most 3 % worse than the best of its ties; 1: no more than the rounds",
    )
    max_s: float | None = Field(
        None,
        gt=0,
        description="time of all rounds, those of later starts too, without waiting for a device that others use; default: 30 "
        "% of the search's, at least 2 minutes; with those for the precision as long as the search, 5 minutes to an hour",
    )


class CanarySpec(Section):
    """The reference, measured again between the trials, so that a change of the machine is noticed; `off`: it is not."""

    every_trials: int = Field(10, ge=0, le=10_000, description="search trials between two measurements, fewer at first; 0: off")
    every_minutes: float = Field(15.0, gt=0, description="minutes between two measurements, whichever is reached first")


class WarmStartSpec(Section):
    """Configurations of earlier studies in the same database, tried first and measured anew; `off`: none are."""

    at_most: int = Field(6, ge=0, le=100, description="candidates taken over, of other models one; 0: off")


class EarlyStopSpec(Section):
    """Rejects a candidate that misses the accuracy constraint after the first samples that show it; `off`: after all of them.

    Only for metrics that state the range of their scores (top1 and top5 do). None is accepted before it ran on all samples.
    """

    error_rate: float = Field(
        0.01,
        ge=0,
        le=0.5,
        description="at most this probability to reject one that is within the constraint on all samples; 0: off",
    )


class AccuracySpec(Section):
    """How accuracy is measured."""

    early_stop: EarlyStopSpec = EarlyStopSpec()

    @field_validator("early_stop", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return _off_or(value, "early_stop")


class LimitsSpec(Section):
    """What one trial may take before it is ended with a reason."""

    deadline_s: float = Field(900.0, gt=0, description="wall time of one trial")
    memory_mib: int | None = Field(None, ge=64, description="resident memory of the trial; default 90 % of the machine's")


class BuildAheadSpec(Section):
    """Variants and engines that the search may soon want are built while others are measured; `off`: none are."""

    cores: int = Field(
        0,
        ge=0,
        le=4096,
        description="the last ones that the study may use, kept for builds: nothing is measured on them; 0: off",
    )


class CacheSpec(Section):
    """Where variants, engines and accuracies are kept, and how much of the disk they may take; a path alone is the folder."""

    folder: Path | None = Field(None, description="default $AUTOTUNE_CACHE, else ~/.cache/autotune")
    max_gib: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="least recently used artifacts go beyond it, but none that a front needs; default $AUTOTUNE_CACHE_MAX_GIB, "
        "else half of what the disk would have free without them",
    )


class RecoverySpec(Section):
    """Fine-tuning after pruning, with the unmodified model as teacher."""

    epochs: int = Field(10, ge=0, le=10_000, description="after each step of pruning")
    steps: int = Field(3, ge=1, le=100, description="pruning is done in this many steps, with recovery after each")
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    max_s: float = Field(600.0, gt=0, description="cap of the whole recovery")


OFF: Mapping[str, Mapping[str, float]] = {
    "finalists": {"rounds": 0},
    "canary": {"every_trials": 0},
    "warm_start": {"at_most": 0},
    "build_ahead": {"cores": 0},
    "early_stop": {"error_rate": 0.0},
}
"""What `off` stands for in the sections that can be switched off."""


def _off_or(value: Any, section: str) -> Any:
    # YAML 1.1 reads a bare `off` as false, YAML 1.2 as text.
    return OFF[section] if value is False or value == "off" else value


DEVICES = "auto, cpu, or cuda:0, cuda:1, … (cuda is cuda:0); auto: the first GPU that an installed engine can use, else the CPU"
NAME = "a name: letters, digits, dots, underscores and hyphens, 100 at most, the first a letter or digit"


class StudySpec(Section):
    """A whole study. `space` holds one Domain per knob, the preset merged in; `file` is where it was read from."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[a-z0-9-]+)?$", max_length=100, description=NAME)]
    model: ModelSpec
    data: DataSpec
    device: str = Field("auto", pattern=DEVICE, description=DEVICES)
    devices: Annotated[tuple[Annotated[str, Field(pattern=DEVICE)], ...], Field(min_length=1)] | None = Field(
        None, description="instead of device: `autotune start` places one worker on each"
    )
    device_kinds: Literal["one", "several"] = Field(
        "one", description="several: workers may have devices of other kinds; each kind is searched apart and has its own front"
    )
    cuda_runtime: Literal["auto", "cuda-core", "torch", "pycuda"] = Field(
        "auto", description="the library that drives the GPU for engines that bring none; auto: the first that is installed"
    )
    engines: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="default: every engine that this machine can run"
    )
    space: Mapping[str, Domain] = Field(default_factory=dict)
    objectives: tuple[ObjectiveName, ...] = ("accuracy", "throughput")
    constraints: ConstraintsSpec = ConstraintsSpec()
    accuracy: AccuracySpec = AccuracySpec()
    load: LoadSpec = LoadSpec()
    budget: BudgetSpec = BudgetSpec()
    search: SearchSpec = SearchSpec()
    finalists: FinalistsSpec = FinalistsSpec()
    canary: CanarySpec = CanarySpec()
    warm_start: WarmStartSpec = WarmStartSpec()
    build_ahead: BuildAheadSpec = BuildAheadSpec()
    limits: LimitsSpec = LimitsSpec()
    recovery: RecoverySpec = RecoverySpec()
    priors: tuple[Mapping[str, Any], ...] = Field((), description="configurations to try first; may name some knobs only")
    storage: str = "sqlite:///autotune.db"
    cache: CacheSpec = CacheSpec()
    artifacts: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9+.-]*://[^\s]+$",
        description="shared folder or object store behind the cache, a URL that fsspec opens: file:///mnt/share, s3://bucket/prefix",
    )
    price_per_hour: float | None = Field(None, gt=0, description="of this device, in any currency; for the objective cost")
    prices: Path | None = Field(
        None, description="instead of price_per_hour: a price table, YAML, for devices of several kinds"
    )
    seed: int = 0
    file: Path | None = Field(None, exclude=True)
    _n_own_priors: int | None = PrivateAttr(default=None)

    @field_validator("finalists", "canary", "warm_start", "build_ahead", mode="before")
    @classmethod
    def _off(cls, value: Any, info: ValidationInfo) -> Any:
        return _off_or(value, str(info.field_name))

    @field_validator("cache", mode="before")
    @classmethod
    def _cache_folder(cls, value: Any) -> Any:
        """A path stands for a section with that folder; so do databases that were written before there was a section."""
        return {} if value is None else {"folder": Path(value)} if isinstance(value, str | Path) else value

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names) or not names:
            raise ValueError("each objective once, and at least one")
        return names

    @model_validator(mode="after")
    def _priced(self) -> StudySpec:
        if "cost" in self.objectives and self.price_per_hour is None and self.prices is None:
            raise ValueError("the objective cost needs price_per_hour, what this device costs per hour, or prices, a table")
        return self

    def placed(self, positions: Positions, n_own_priors: int) -> StudySpec:
        """This study, whose sections now know where they were read, and which of its priors the file itself names."""
        self.placed_at(positions, "")
        self._n_own_priors = n_own_priors
        return self

    def as_stored(self) -> dict[str, Any]:
        """The study as it is kept in a database: JSON, without the passwords of the URLs in it."""
        document = self.model_dump(mode="json")
        return document | {k: url_without_secrets(v) for k in ("storage", "artifacts") if (v := document[k]) is not None}

    @property
    def own_priors(self) -> tuple[Mapping[str, Any], ...]:
        """The priors that the study file names; the others are its preset's. All of them where no file was read."""
        return self.priors if self._n_own_priors is None else self.priors[: self._n_own_priors]

    def domain(self, knob: str) -> Domain:
        """The domain of a knob: the study's, or the knob's default as the only choice. Raises KeyError on no such knob."""
        if knob in self.space:
            return self.space[knob]
        default = KNOBS[knob].default
        return Choices(values=() if default is None else (default,))
