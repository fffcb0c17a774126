"""An afternoon's Optuna script, as anyone would write it: TPE over engine, precision, batch, streams and threads. No caches.

    python benchmarks/optuna_script.py MODEL.onnx VAL.npz CALIB.npz N_TRIALS

It is what `benchmarks/race.py` runs against. One JSON line per trial: seconds since the start, parameters, top-1, items/s.
"""

import json
import sys
import threading
import time

import numpy as np
import optuna

MODEL, VAL, CALIB, N_TRIALS = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])["x"], int(sys.argv[4])
BEGAN, X, Y = time.monotonic(), VAL["x"], VAL["y"]


def quantized(path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rows = iter([{"input": CALIB[i : i + 16]} for i in range(0, len(CALIB), 16)])

        def get_next(self):
            return next(self.rows, None)

    unsigned = QuantType.QUInt8  # signed activations, the default, take two to three times as long
    quantize_static(path, "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=unsigned)
    return "int8.onnx"


def runner(engine, path, precision, batch, streams, threads):
    if engine == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: lambda x: session.run(None, {"input": x})[0]
    import openvino as ov

    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"NUM_STREAMS": min(streams, threads), "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    model = ov.Core().read_model(path)
    model.reshape([batch, *X.shape[1:]])
    compiled = ov.Core().compile_model(model, "CPU", settings)

    def client():
        request = compiled.create_infer_request()
        return lambda x: request.infer([x])[0]

    return client


def items_per_s(client, batch, streams, seconds):
    stop, counts = time.monotonic() + seconds, [0] * streams

    def drive(slot, run):
        i = slot
        while time.monotonic() < stop:
            start = i * batch % (len(X) - batch + 1)
            run(X[start : start + batch])
            counts[slot] += batch
            i += streams

    began = time.monotonic()
    threads = [threading.Thread(target=drive, args=(slot, client())) for slot in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began)


def objective(trial):
    engine, precision = trial.suggest_categorical("pair", PAIRS).split("/")
    batch = trial.suggest_categorical("batch", [1, 2, 4, 8, 16, 32])
    streams, threads = trial.suggest_categorical("streams", [1, 2, 4]), trial.suggest_categorical("threads", [1, 2])
    path = quantized(MODEL) if precision == "int8" else MODEL
    client = runner(engine, path, precision, batch, streams, threads)
    run = client()
    answers = np.concatenate([run(X[i : i + batch]).argmax(1) for i in range(0, len(X) - batch + 1, batch)])
    top1 = float((answers == Y[: len(answers)]).mean())
    items_per_s(client, batch, streams, 0.5)
    rate = items_per_s(client, batch, streams, 3.0)
    line = {"t_s": time.monotonic() - BEGAN, "pair": f"{engine}/{precision}", "batch": batch, "streams": streams}
    print(json.dumps(line | {"threads": threads, "top1": top1, "items_per_s": rate}), flush=True)
    return rate if top1 >= BASE - 0.01 else 0.0


if __name__ == "__main__":
    import openvino as ov

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bf16 = ["openvino/bf16"] if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else []
    PAIRS = ["onnxruntime/fp32", "onnxruntime/int8", "openvino/fp32", "openvino/int8", *bf16]
    base = runner("onnxruntime", MODEL, "fp32", 16, 1, 2)()
    BASE = float((np.concatenate([base(X[i : i + 16]) for i in range(0, len(X), 16)]).argmax(1) == Y).mean())
    optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler()).optimize(objective, n_trials=N_TRIALS)
