"""ONNX's own test cases on disk: `python -m exporters.conformance [OUT]`, for
`cargo test --test conformance`.

Writes OUT/<set>/<case>/{model.onnx, input_0.pb, output_0.pb, …} in ONNX's usual layout. The sets:

- `node`: the backend node tests, which the `onnx` package builds in memory;
- `converted`, `operator`, `light`: the recorded models that it ships (`pytorch-converted`,
  `pytorch-operator`, `light`);
- `torch`: our own, computed by PyTorch (`torch_cases.py`), with gradients.

Nothing is done when OUT is already what the installed packages and this script would write.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

DEFAULT = Path("target/conformance")
STAMP = "stamp"
"""The file that tells a folder of cases, and what they were made from."""
RECORDED = {"converted": "pytorch-converted", "operator": "pytorch-operator"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m exporters.conformance", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        default=DEFAULT,
        help="folder of the cases (default: %(default)s)",
    )
    out: Path = parser.parse_args(arguments).out
    stamp = out / STAMP
    if stamp.is_file() and stamp.read_text() == _fingerprint():
        return 0
    if out.is_dir() and any(out.iterdir()) and not stamp.is_file():
        parser.error(
            f"{out} holds other files: name a new folder, or an earlier one of this command"
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    # First, so that an interrupted run is known as one of ours.
    stamp.write_text("unfinished\n")
    counts = {"node": _write_node_cases(out / "node")}
    data = Path(onnx.__file__).parent / "backend/test/data"
    for name, source in RECORDED.items():
        counts[name] = _copy_recorded(data / source, out / name)
    counts["light"] = _write_light(data / "light", out / "light")
    counts["torch"] = _write_torch_cases(out / "torch")
    stamp.write_text(_fingerprint())
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


def _fingerprint() -> str:
    """What the cases depend on."""
    here = Path(__file__)
    sources = here.read_text() + here.with_name("torch_cases.py").read_text()
    packages = " ".join(f"{name} {version(name)}" for name in ("onnx", "numpy", "torch"))
    return f"{packages} {hashlib.sha256(sources.encode()).hexdigest()}\n"


def _write_node_cases(out: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference implementations overflow on purpose
        cases = load_model_tests(kind="node")
    for case in cases:
        if case.model is None or not case.data_sets:
            raise ValueError(f"ONNX's test case {case.name} has no model in memory")
        inputs, outputs = case.data_sets[0]
        _write(out / case.name.removeprefix("test_"), case.model, inputs, outputs)
    return len(cases)


def _copy_recorded(source: Path, out: Path) -> int:
    folders = sorted(source.glob("test_*"))
    for folder in folders:
        target = out / folder.name.removeprefix("test_")
        shutil.copytree(folder / "test_data_set_0", target)
        shutil.copy(folder / "model.onnx", target)
    return len(folders)


def _write_light(source: Path, out: Path) -> int:
    """Whole networks whose input is, by ONNX's convention, 0, 1/n, 2/n, …"""
    models = sorted(source.glob("*.onnx"))
    for path in models:
        model = onnx.load(path)
        initializers = {tensor.name for tensor in model.graph.initializer}
        inputs = []
        for value in model.graph.input:
            if value.name not in initializers:
                shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
                count = int(np.prod(shape))
                inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        output = onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))
        _write(out / path.stem.removeprefix("light_"), model, inputs, [output])
    return len(models)


def _write_torch_cases(out: Path) -> int:
    from .torch_cases import all_cases  # torch takes seconds to load

    cases = list(all_cases())
    for case in cases:
        golden = case.compute()
        folder = out / case.name
        _write(folder, case.model(), golden.inputs, golden.outputs)
        _write_tensors(folder, "cotangent", golden.cotangents)
        for index, gradient in golden.gradients.items():
            (folder / f"gradient_{index}.pb").write_bytes(_tensor(gradient))
    return len(cases)


def _write(folder: Path, model: onnx.ModelProto, inputs: Iterable, outputs: Iterable) -> None:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    _write_tensors(folder, "input", inputs)
    _write_tensors(folder, "output", outputs)


def _write_tensors(folder: Path, role: str, values: Iterable) -> None:
    for index, tensor in _tensors(values):
        (folder / f"{role}_{index}.pb").write_bytes(tensor)


def _tensors(values: Iterable) -> Iterator[tuple[int, bytes]]:
    """Leaves sequences and optionals out: a graph that has them is refused before its data are
    read."""
    for index, value in enumerate(values):
        if isinstance(value, onnx.TensorProto):
            yield index, value.SerializeToString()
        elif isinstance(value, np.ndarray | np.generic):
            yield index, _tensor(np.asarray(value))


def _tensor(array: np.ndarray) -> bytes:
    return numpy_helper.from_array(array).SerializeToString()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
