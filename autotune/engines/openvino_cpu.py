"""OpenVINO on the CPU: static batch, N inference streams, a bounded number of inference threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from autotune.candidate import Candidate, Scalar
from autotune.engines.layers import LayerReport
from autotune.engines.openvino_profile import profiled_layers
from autotune.engines.protocol import Capabilities, Engine, Inputs, Outputs
from autotune.errors import BuildFailed, OutOfMemory, Unstable, Unsupported
from autotune.fingerprint import library_version, usable_cores
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

_FILE = "model.xml"

_DOCS = {
    "precision": "fp32, fp16 (half the file, computed in fp32), bf16 (if the CPU has AVX512_BF16 or AMX), int8, int8-tensor",
    "batch_size": "first dimension of the compiled model's shape, which is static",
    "streams": "infer requests in flight; NUM_STREAMS is as many, or worker_threads where that is fewer",
    "worker_threads": "INFERENCE_NUM_THREADS, divided among the streams",
}


class OpenVinoCpu:
    """The backend. Streams are infer requests in flight, on as many of OpenVINO's own streams as there are threads for them.

    More requests than OpenVINO streams is a queue, which keeps the cores busy while Python fetches a result.
    """

    name = "openvino"
    build_knobs = frozenset({"batch_size"})
    run_knobs = frozenset({"streams", "worker_threads"})
    preload = ("openvino",)

    def capabilities(self) -> Capabilities:
        """What the CPU plug-in says of this CPU: bf16 is offered only where the processor has the instructions."""
        if not library_version("openvino"):
            return Capabilities(
                available=False,
                missing="the package openvino is not installed",
                remedy="pip install 'autotune[openvino]'",
                knob_docs=_DOCS,
            )
        try:
            import openvino as ov

            able = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        except (ImportError, OSError, RuntimeError) as exc:
            return Capabilities(
                available=False,
                missing=f"the package openvino is installed, but does not load: {exc}",
                remedy="pip install --force-reinstall openvino",
                knob_docs=_DOCS,
            )
        refused = {} if "BF16" in able else {"bf16": "this CPU has neither AVX512_BF16 nor AMX"}
        precisions = ("fp32", "fp16", "bf16", "int8", "int8-tensor")
        return Capabilities(
            available=True,
            precisions=tuple(p for p in precisions if p not in refused),
            refused=refused,
            limits={"worker_threads": (1, usable_cores()), "streams": (1, 4 * usable_cores())},
            distributions=("openvino",),
            knob_docs=_DOCS,
        )

    def scheme(self, precision: str) -> QuantScheme:
        """Asymmetric uint8 activations, as OpenVINO's own quantizer (NNCF) makes them for ReLU networks."""
        return QuantScheme(activations="uint8", quantize_bias=True)

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One synchronous request on all cores, which is what compile_model without a hint gives."""
        return {"batch_size": 1, "streams": 1, "worker_threads": usable_cores()}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph as OpenVINO IR with the candidate's batch as a static dimension."""
        import openvino as ov

        try:
            model = ov.Core().read_model(str(variant.path))
            shapes = {}
            for port in model.inputs:
                shape = port.get_partial_shape()
                shape[0] = candidate.batch_size
                shapes[port] = shape
            model.reshape(shapes)
            ov.save_model(model, str(folder / _FILE), compress_to_fp16=False)
        except RuntimeError as exc:
            raise BuildFailed(
                f"OpenVINO could not convert the graph at batch {candidate.batch_size}: {exc}", stage="engine"
            ) from exc

    def open(self, engine: Engine, candidate: Candidate) -> OpenVinoSession:
        """The IR compiled for the candidate's streams and threads, in the precision that the graph carries."""
        return OpenVinoSession(self._compiled(engine, candidate), candidate.streams or 1)

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The layers of the same compiled model with performance counters, of one stream."""
        one = replace(candidate, streams=1)  # counters are kept per stream, and only one stream's could be read
        return profiled_layers(self._compiled(engine, one, PERF_COUNT=True), outline_of(engine.variant.path), batches, n_runs)

    def _compiled(self, engine: Engine, candidate: Candidate, **extra: Any) -> Any:
        import openvino as ov

        settings = self.deployment(candidate)["compile_model"] | extra
        try:
            compiled = ov.Core().compile_model(str(engine.folder / _FILE), "CPU", settings)
        except RuntimeError as exc:
            kind = OutOfMemory if "bad_alloc" in str(exc) else BuildFailed
            raise kind(f"OpenVINO could not compile with {settings}: {exc}", stage="open") from exc
        n_streams = int(compiled.get_property("NUM_STREAMS"))
        if n_streams != settings.get("NUM_STREAMS", n_streams):
            raise Unsupported(f"OpenVINO was asked for {settings['NUM_STREAMS']} streams and took {n_streams}", stage="open")
        return compiled

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """The properties of compile_model.

        The precision hint is always set: left alone, OpenVINO runs an fp32 graph in bf16 wherever the CPU can.
        """
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if candidate.precision == "bf16" else "f32"}
        if candidate.streams is not None:
            # The plug-in takes no more streams than threads: asked for 4 on 2 threads, or on 2 cores, it made 2.
            settings["NUM_STREAMS"] = min(candidate.streams, candidate.worker_threads or usable_cores())
        if candidate.worker_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = candidate.worker_threads
        return {"compile_model": settings, "requests": candidate.streams}


class OpenVinoSession:
    """One compiled model with an infer request per slot; inputs are shared with the caller, not copied."""

    def __init__(self, compiled: Any, slots: int) -> None:
        self.slots = slots
        self._compiled = compiled
        self._requests = [compiled.create_infer_request() for _ in range(slots)]
        self._names = [_name(port, i) for i, port in enumerate(compiled.outputs)]
        self._n_inputs = len(compiled.inputs)
        # The first Type.to_dtype() of a process fills a C++ static while it gives up the GIL: two threads that both come first
        # wait for each other for ever (OpenVINO 2026.4.1, seen in a stack dump). So it happens here, on one thread.
        for port in (*compiled.inputs, *compiled.outputs):
            port.get_element_type().to_dtype()

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The slot's request has started. Raises Unstable when it cannot."""
        if len(inputs) != self._n_inputs:  # OpenVINO would run on what the request held before
            raise Unstable(f"OpenVINO got the inputs {', '.join(inputs) or 'none'} of {self._n_inputs}", stage="load")
        try:
            self._requests[slot].start_async(dict(inputs), share_inputs=True)
        except RuntimeError as exc:
            raise Unstable(f"OpenVINO could not start a request: {exc}", stage="load") from exc

    def wait(self, slot: int) -> Outputs:
        """Views of the request's output tensors, valid until the next submit on this slot."""
        request = self._requests[slot]
        try:
            request.wait()
        except RuntimeError as exc:
            kind = OutOfMemory if "bad_alloc" in str(exc) else Unstable
            raise kind(f"OpenVINO failed while it ran: {exc}", stage="load") from exc
        return {name: request.get_output_tensor(i).data for i, name in enumerate(self._names)}

    def close(self) -> None:
        """Requests and compiled model are released."""
        self._requests, self._compiled = [], None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name(port: Any, index: int) -> str:
    """The output's name in the ONNX graph. A compiled port may have more: those of a Cast before it that was optimized away."""
    names = port.get_names()
    given = str(port.get_node().friendly_name).removesuffix("/sink_port_0")
    return given if given in names else min(names, default=f"output{index}")
