"""draft_study: a commented study.yaml with what could be found out from a model and its data."""

from __future__ import annotations

import json
import re
from pathlib import Path

from autotune.assets import asset
from autotune.errors import SpecError, SpecProblem
from autotune.printable import printable
from autotune.spec.discover import FoundData, discovered_data
from autotune.spec.inputs import InputSpec
from autotune.spec.onnx_file import ModelFault, checked_onnx, inputs_from_onnx
from autotune.spec.presets import preset_of_device
from autotune.spec.schema import SCHEMA_ASSET

_GUESS = "# GUESS: nothing in the model or the data says how it was trained to see its inputs. Check against the training code:"
_PRECISION_ORDER = "fp32, bf16, int8"


def draft_study(model: Path, data: Path | None, device: str, folder: Path | None = None) -> str:
    """The text of a study file for `model`, to be written into `folder` (default: the current one). Writes nothing.

    With `data` the text loads as it is; without, the user fills in the marked places. Raises SpecError when the model or the
    data cannot be read.
    """
    base = (folder or Path.cwd()).resolve()
    try:
        inputs = inputs_from_onnx(checked_onnx(model))
    except ModelFault as exc:
        raise SpecError([SpecProblem(key="--model", found=exc.found, allowed=exc.allowed)]) from exc
    found = FoundData()
    if data is not None:
        try:
            found = discovered_data(data, lambda path: _path(path, base))
        except (OSError, ValueError, KeyError) as exc:
            raise SpecError([SpecProblem(key="--data", found=str(exc), allowed="data in one of these forms")]) from exc
    parts = (
        f"# yaml-language-server: $schema={asset(SCHEMA_ASSET)}",
        f"study: {_study_name(model, device)}",
        *_model_lines(model, inputs, base),
        *_data_lines(found, inputs),
        *_search_lines(device, "calibration" in found.splits or not found.splits),
    )
    return "\n".join(parts) + "\n"


def _study_name(model: Path, device: str) -> str:
    suffix = "" if device == "auto" else f"-{device.replace(':', '')}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model.stem}{suffix}").strip("-._")
    return _scalar(name[:100] or "study")


def _model_lines(model: Path, inputs: tuple[InputSpec, ...], base: Path) -> list[str]:
    return [
        "model:",
        f"  path: {_scalar(_path(model, base))}",
        *(f"  # input {_on_one_line(str(wanted))}" for wanted in inputs),
    ]


def _on_one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def _data_lines(found: FoundData, inputs: tuple[InputSpec, ...]) -> list[str]:
    lines = ["data:"]
    if not found.splits:
        lines += [
            "  # FILL IN: labelled samples, as an image folder with a CSV (file,label[,split]) or an .npz file with x and y.",
            "  validation: {npz: val.npz, inputs: x, labels: y}",
            "  # validation: {images: images/, labels: labels.csv, split: val}",
            "  calibration: {npz: calib.npz, inputs: x}",
        ]
    lines += [f"  # CHECK: {doubt}" for doubt in (*found.doubts, *_unmatched(found, inputs))]
    for role, keys in found.splits.items():
        shown = {k: v if k != "inputs" else _arrays_of(found, inputs, v) for k, v in keys.items()}
        lines.append(f"  {role}: {_flow(shown)}")
    if found.splits and "calibration" not in found.splits:
        lines.append("  # calibration: {…}   # a few hundred samples that are not in validation; int8 needs them")
    lines += _preprocess_lines(found, inputs)
    return [*lines, "  metric: top1   # top1, top5, mse, spearman_pairs, or module:function"]


def _arrays_of(found: FoundData, inputs: tuple[InputSpec, ...], array: str) -> str | dict[str, str]:
    """What `inputs:` says: the array of a single input; of several each one's namesake, or a name that the user must mend."""
    if len(inputs) == 1:
        return inputs[0].name if inputs[0].name in found.arrays else array
    return {wanted.name: wanted.name if wanted.name in found.arrays else "FILL_IN" for wanted in inputs}


def _unmatched(found: FoundData, inputs: tuple[InputSpec, ...]) -> list[str]:
    """What to look at where an archive's arrays and the model's inputs do not match by name and type."""
    if not found.arrays or len(inputs) == 1 == len(found.arrays):
        return []
    there = ", ".join(f"{name} ({dtype})" for name, dtype in found.arrays.items())
    lacking = [wanted.name for wanted in inputs if wanted.name not in found.arrays]
    if len(inputs) == 1:
        return [f"the archive holds {there}; which of them is the model's input {inputs[0].name}?"] if lacking else []
    doubts = [f"FILL IN the array for {', '.join(lacking)}; the archive holds {there}"] if lacking else []
    other = [w for w in inputs if w.name in found.arrays and found.arrays[w.name] != w.dtype]
    return [*doubts, *(f"{w.name} is stored as {found.arrays[w.name]} and the model wants {w.dtype}" for w in other)]


def _preprocess_lines(found: FoundData, inputs: tuple[InputSpec, ...]) -> list[str]:
    """Nothing where the stored numbers already fit the model; else a guess, marked as one."""
    if (
        len(inputs) != 1
        or (found.dtype is not None and found.dtype == inputs[0].dtype)
        or not inputs[0].dtype.startswith("float")
    ):
        return ["  # no preprocess is needed: the arrays go in as they are stored"] if found.splits else []
    shape = inputs[0].sample_shape
    layout, channels = _layout(shape)
    keys: dict[str, object] = {"color": "L" if channels == 1 else "RGB"} if found.is_images or not found.splits else {}
    keys["layout"] = layout
    if found.dtype in (None, "uint8"):
        three = channels == 3
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if three else ([0.5], [0.5])
        keys |= {"scale": 0.00392156862745098, "mean": mean, "std": std}
        why = "(pixel/255 - mean)/std with ImageNet's usual mean and std" if three else "(pixel/255 - 0.5)/0.5"
        why += "; also common: pixel/127.5 - 1, which is scale: 0.00784313725, mean: [1], std: [1]"
    else:
        keys |= {"scale": 1.0, "mean": [0.0], "std": [1.0]}
        why = "the stored integers as they are"
    lines = [f"  {_GUESS}", f"  # {why}"]
    keys |= _size_keys(found, shape, layout)
    return [*lines, f"  preprocess: {_flow(keys)}"]


def _layout(shape: tuple[int | None, ...]) -> tuple[str, int | None]:
    """The layout that the model's input has, and its channels; channels are few."""
    if len(shape) != 3:
        return "none", None
    if shape[0] in (1, 3, 4):
        return "NCHW", shape[0]
    return "NHWC", shape[2]


def _size_keys(found: FoundData, shape: tuple[int | None, ...], layout: str) -> dict[str, object]:
    """resize and crop as most ImageNet models are evaluated (shorter side 8/7 of the crop), where images have another size."""
    if not found.is_images or len(shape) != 3:
        return {}
    height, width = (shape[1], shape[2]) if layout == "NCHW" else (shape[0], shape[1])
    if height is None or width is None or (found.shape is not None and found.shape[:2] == (height, width)):
        return {}
    return (
        {"resize": round(min(height, width) * 8 / 7), "crop": [height, width]}
        if height == width
        else {"resize": [height, width]}
    )


def _search_lines(device: str, calibrated: bool) -> list[str]:
    lines = [
        f"device: {_scalar(device)}   # auto, cpu, cuda:0",
        "# engines: [onnxruntime, openvino]   # default: every engine here",
    ]
    lines += [
        "space:",
        f"  extends: {preset_of_device(device)}   # a preset (autotune presets), or a file; every knob can be set here:",
    ]
    if not calibrated:
        lines.append("  precision: [fp32, bf16]   # add int8 once data.calibration is there")
    return [
        *lines,
        f"  # precision: [{_PRECISION_ORDER}]                  # a list of choices",
        "  # batch_size: {low: 1, high: 64, log: true}    # a range",
        "  # pruning_ratio: 0.0                           # one value fixes the knob",
        "objectives: [accuracy, throughput]   # also latency_p99, memory",
        "constraints:",
        "  accuracy_drop: 0.01   # at most one point of top-1 under the unmodified model",
        "  # latency_p99_ms: 50",
        "# accuracy: {early_stop: {error_rate: 0.01}}   # hopeless candidates run on few samples; off: on all",
        "load: {scenario: offline}   # all streams busy | singlestream | multistream | server: {qps, slo_ms} | FILE.csv",
        "budget: {trials: 60, hours: 2}   # whichever is reached first",
        "# finalists: {rounds: 5}   # the best are measured again at the end, in fresh processes; off: they are not",
        "# canary: {every_trials: 10}   # the reference is measured again in between; off: it is not",
        "# warm_start: {at_most: 6}     # configurations of earlier studies in the database are tried first; off: none",
        "# build_ahead: {cores: 2}      # the last cores, kept to build what comes next while others are measured; off: none",
        "storage: sqlite:///autotune.db   # or postgresql+psycopg://…",
        "seed: 0",
    ]


def _path(path: Path, base: Path) -> str:
    """Relative where the file lies under the study's folder, so that the folder can be moved; else absolute."""
    absolute = path.resolve()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)


def _scalar(text: str) -> str:
    """YAML text that reads back as the same string: plain where that is safe, else quoted as JSON, which YAML includes."""
    plain = re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", text) and text.lower() not in (
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
    )
    return text if plain else json.dumps(text)


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(str(k))}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else str(value)
