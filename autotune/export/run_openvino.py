#!/usr/bin/env python3
"""Loads model.xml with the properties it was measured with and runs it. Needs openvino and numpy, nothing else.

    python run.py [--input samples.npz] [--seconds 5]

Without --input it runs random numbers and prints items per second. With --input (arrays named like the model's inputs,
already preprocessed, as many samples as the batch) it also writes the outputs to outputs.npz. Import `load` to use the compiled
model in a program of your own.
"""

import argparse
import hashlib
import json
import pathlib
import threading
import time
from typing import Any

import numpy as np
import openvino as ov

HERE = pathlib.Path(__file__).resolve().parent


def _content(name: str) -> bytes | None:
    """Of a file that is in this folder, links followed; None where it is not."""
    try:
        path = (HERE / name).resolve()
        return path.read_bytes() if HERE in path.parents and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # the last one: links that lead in a circle
        return None


def _document(name: str) -> dict[str, Any]:
    try:
        found = json.loads(_content(name) or b"")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SystemExit(f"{name} is missing or damaged; export the bundle again")
    return found


def _check_files() -> None:
    files = _document("manifest.json").get("files")
    if not isinstance(files, dict) or not files:
        raise SystemExit("manifest.json names no files; export the bundle again")
    for name, digest in files.items():
        content = _content(name)
        if content is None:
            raise SystemExit(f"{name} is not in this folder; export the bundle again")
        if hashlib.sha256(content).hexdigest() != digest:
            raise SystemExit(f"{name} differs from the file that was exported; export the bundle again")


def load(check: bool = True) -> tuple[Any, dict[str, Any]]:
    """The compiled model and its settings. Raises SystemExit when a file is not the one that was exported."""
    if check:
        _check_files()
    settings = _document("settings.json")
    return ov.Core().compile_model(str(HERE / "model.xml"), "CPU", settings["compile_model"]), settings


def random_inputs(compiled: Any) -> dict[str, Any]:
    """One batch of random numbers; unknown dimensions count 1."""
    rng = np.random.default_rng(0)
    made = {}
    for port in compiled.inputs:
        shape = [d.get_length() if d.is_static else 1 for d in port.get_partial_shape()]
        kind = port.get_element_type().to_dtype()
        made[port.get_any_name()] = rng.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)
    return made


def items_per_second(compiled: Any, settings: dict[str, Any], seconds: float) -> float:
    """Throughput of as many requests as there are streams, each kept busy by a thread."""
    inputs = random_inputs(compiled)
    stop = time.monotonic() + seconds
    counts: list[int] = []

    def drive() -> None:
        request, n = compiled.create_infer_request(), 0
        while time.monotonic() < stop:
            request.start_async(inputs, share_inputs=True)
            request.wait()
            n += settings["batch_size"]
        counts.append(n)

    threads = [threading.Thread(target=drive) for _ in range(settings["requests"] or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _output_name(port: Any) -> str:
    """The output's name in the original graph; a compiled port may carry those of a Cast that was optimized away, too."""
    given = str(port.get_node().friendly_name).removesuffix("/sink_port_0")
    return given if given in port.get_names() else port.get_any_name()


def main() -> None:
    """One input, or a load of the exported settings; what came out is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    compiled, settings = load()
    if arguments.input:
        try:
            with np.load(arguments.input, allow_pickle=False) as samples:
                found = compiled.create_infer_request().infer({k: samples[k] for k in samples.files})
        except Exception as exc:  # what is wrong with a file may come from numpy, zipfile or the engine
            raise SystemExit(f"--input {arguments.input}: {exc}") from exc
        np.savez("outputs.npz", **{_output_name(port): value for port, value in found.items()})
        print("wrote outputs.npz")
    print(f"{items_per_second(compiled, settings, arguments.seconds):.1f} items/s at batch {settings['batch_size']}")


if __name__ == "__main__":
    main()
