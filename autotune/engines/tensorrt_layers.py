"""The layers of a TensorRT engine: from the inspector's JSON, or from the build log where the engine cannot be loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autotune.engines.layers import Layer, LayerRole

_FORMATS: tuple[tuple[str, str], ...] = (
    ("bf16", "bfloat16|bf16"),
    ("fp16", "float16|fp16|half"),
    ("fp8", "float8|fp8"),
    ("fp4", "float4|fp4"),
    ("int4", "int4"),
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("int32", "int32"),
    ("int64", "int64"),
    ("bool", "bool"),
    ("fp32", "float32|fp32|float"),
)
"""Our name of a number format and the words for it in the inspector's "Format/Datatype" (to 10.x) or "Datatype" (since)."""

_REFORMATS = {"reformat", "nop reformat"}
_COPIES = {"noop", "shuffle", "concatenation", "slice", "copy", "identity", "squeeze", "unsqueeze"}
_QUANTIZES = {"quantize", "dequantize", "cast", "dynamicquantize"}
_OTHERS = {"constant", "shape", "signal", "wait", "shape host to device", "devicetoshapehostcopy", "shapehosttodevicecopy"}
_MYELIN = re.compile(r"^__myl_([A-Z]\w*?)_myl\d+_\d+$")
"""Names of Myelin's own kernels list what is fused in them, each operation cut to four letters: __myl_QuanMoveCast_myl0_3."""
_MOVES, _CASTS = {"Move", "Tran", "Resh", "Copy", "Slic", "Conc", "Repl"}, {"Quan", "Dequ", "Cast"}
_ROUNDINGS = {"Mul", "Min", "Max", "Roun"}
"""What a QuantizeLinear is made of: scale, clip, round."""
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_LINE = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>.*?), Inputs: \[(?P<Inputs>| .*? \})\], (?:Constants: \[.*?\], )?"
    r"Outputs: \[(?P<Outputs>| .*? \})\], .*?TacticName: (?P<TacticName>.*?), StreamId: .*?Metadata: (?P<Metadata>.*)$"
)
_TENSOR = re.compile(r"Dimensions: \[[^\]]*\].*?Datatype: (\w+), Format: (.*?) \}")


def layers_from_inspector(document: str) -> tuple[Layer, ...]:
    """The layers in the JSON of IEngineInspector. Engines built without detail give names only."""
    found = json.loads(document).get("Layers", [])
    return _each_node_once([_layer({"Name": f} if isinstance(f, str) else f) for f in found])


def layers_from_log(lines: Sequence[str]) -> tuple[Layer, ...]:
    """The layers in the table that the builder of TensorRT for RTX writes into its log; none where there is no table."""
    found = []
    for match in filter(None, map(_LINE.match, _table(lines))):
        known: dict[str, Any] = dict(match.groupdict())
        for end in ("Inputs", "Outputs"):
            known[end] = [{"Datatype": kind, "Format": form} for kind, form in _TENSOR.findall(known[end])]
        found.append(_layer(known))
    return _each_node_once(found)


def with_times(layers: Sequence[Layer], time_us: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers with the profiler's mean times by name; a layer that only the profiler knows stands at the end."""
    known = {layer.name for layer in layers}
    timed = [replace(layer, time_us=time_us.get(layer.name)) for layer in layers]
    rest = [Layer(name=n, kind="", role=_role(n, "", [], []), time_us=t) for n, t in time_us.items() if n not in known]
    return (*timed, *rest)


def _table(lines: Sequence[str]) -> list[str]:
    """What stands between "Layers:" and the empty line after it, of the last such table."""
    starts = [i for i, line in enumerate(lines) if line.rstrip().endswith("Layers:")]
    if not starts:
        return []
    after = lines[starts[-1] + 1 :]
    return list(after[: next((i for i, line in enumerate(after) if not line.strip()), len(after))])


def _layer(known: Mapping[str, Any]) -> Layer:
    name, kind = str(known.get("Name", "")), str(known.get("LayerType", ""))
    inputs, outputs = ([_form(t) for t in known.get(end, ()) if isinstance(t, Mapping)] for end in ("Inputs", "Outputs"))
    role = "quantize" if known.get("Origin") == "QDQ" else _role(name, kind, inputs, outputs)
    kernel = str(known.get("TacticName", ""))
    return Layer(
        name=name,
        kind=kind,
        role=role,
        precision=_precision(inputs, outputs, kernel),
        kernel=kernel,
        nodes=tuple(dict.fromkeys(_NODE.findall(str(known.get("Metadata", ""))))),
    )


def _form(tensor: Mapping[str, Any]) -> tuple[str, str]:
    """A tensor's number format in our words, and all that is said of its memory layout."""
    said = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format") or "")
    layout = str(tensor.get("Format") or tensor.get("Format/Datatype") or "")
    return next((ours for ours, words in _FORMATS if re.search(words, said, re.IGNORECASE)), ""), layout


def _precision(inputs: Sequence[tuple[str, str]], outputs: Sequence[tuple[str, str]], kernel: str) -> str:
    """The format of the first input that has one: int8 for a convolution that reads int8 and writes fp16."""
    first = next((kind for kind, _ in (*inputs, *outputs) if kind), "")
    return "tf32" if first == "fp32" and "tf32" in kernel.lower() else first


def _role(name: str, kind: str, inputs: Sequence[tuple[str, str]], outputs: Sequence[tuple[str, str]]) -> LayerRole:
    lowered = kind.lower()
    changes_format = bool(inputs and outputs) and inputs[0][0] != outputs[0][0]
    if lowered in _REFORMATS or (not kind and name.startswith("Reformatting CopyNode")):
        return "quantize" if changes_format else "reformat"
    for kinds, role in ((_QUANTIZES, "quantize"), (_COPIES, "copy"), (_OTHERS, "other")):
        if lowered in kinds:
            return role  # type: ignore[return-value]  # each is a LayerRole
    if (match := _MYELIN.match(name)) is not None:
        parts = set(re.findall(r"[A-Z][a-z]*", match[1]))
        if parts <= _MOVES:
            return "reformat" if inputs and outputs and inputs[0][1] != outputs[0][1] else "copy"
        if parts <= _MOVES | _CASTS or ("Roun" in parts and parts <= _MOVES | _CASTS | _ROUNDINGS):
            return "quantize"
    return "compute"


def _each_node_once(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """A node that several layers name belongs to the first that computes: quantizing and moving are done on its behalf."""
    owner: dict[str, int] = {}
    for i in sorted(range(len(layers)), key=lambda i: (layers[i].role != "compute", i)):
        for node in layers[i].nodes:
            owner.setdefault(node, i)
    return tuple(replace(layer, nodes=tuple(n for n in layer.nodes if owner[n] == i)) for i, layer in enumerate(layers))
