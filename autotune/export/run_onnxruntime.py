#!/usr/bin/env python3
"""Loads model.onnx with the settings it was measured with and runs it. Needs onnxruntime and numpy, nothing else.

    python run.py [--input samples.npz] [--seconds 5]

Without --input it runs random numbers and prints items per second. With --input (arrays named like the model's inputs, already
preprocessed) it also writes the outputs to outputs.npz. Import `load` to use the session in a program of your own.
"""

import argparse
import hashlib
import json
import pathlib
import threading
import time
from typing import Any

import numpy as np
import onnxruntime as ort

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
    """The session and its settings. Raises SystemExit when a file is not the one that was exported."""
    if check:
        _check_files()
    settings = _document("settings.json")
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings["intra_op_num_threads"] or 0
    if settings["arena_max_mem_bytes"]:
        arena = ort.OrtArenaCfg({"max_mem": settings["arena_max_mem_bytes"], "arena_extend_strategy": 1})
        kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(kind, arena)
        options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(str(HERE / "model.onnx"), options, providers=settings["providers"]), settings


def random_inputs(session: Any, batch: int) -> dict[str, Any]:
    """One batch of random numbers; unknown dimensions count 1."""
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
    rng = np.random.default_rng(0)
    made = {}
    for port in session.get_inputs():
        shape = [batch] + [d if isinstance(d, int) else 1 for d in port.shape[1:]]
        kind = kinds.get(port.type, np.float32)
        made[port.name] = rng.standard_normal(shape).astype(kind) if kind is np.float32 else np.zeros(shape, kind)
    return made


def items_per_second(session: Any, settings: dict[str, Any], seconds: float) -> float:
    """Throughput of `concurrent_runs` threads that each run one batch after the other."""
    inputs = random_inputs(session, settings["batch_size"])
    stop = time.monotonic() + seconds
    counts: list[int] = []

    def drive() -> None:
        n = 0
        while time.monotonic() < stop:
            session.run(None, inputs)
            n += settings["batch_size"]
        counts.append(n)

    threads = [threading.Thread(target=drive) for _ in range(settings["concurrent_runs"] or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def main() -> None:
    """One input, or a load of the exported settings; what came out is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    session, settings = load()
    if arguments.input:
        try:
            with np.load(arguments.input, allow_pickle=False) as samples:
                values = session.run(None, {port.name: samples[port.name] for port in session.get_inputs()})
        except Exception as exc:  # what is wrong with a file may come from numpy, zipfile or the engine
            raise SystemExit(f"--input {arguments.input}: {exc}") from exc
        np.savez("outputs.npz", **{port.name: value for port, value in zip(session.get_outputs(), values, strict=True)})
        print("wrote outputs.npz")
    print(f"{items_per_second(session, settings, arguments.seconds):.1f} items/s at batch {settings['batch_size']}")


if __name__ == "__main__":
    main()
