"""Starts the program `scdd` of this package, with the ONNX Runtime of the same environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Becomes the program, whose libtorch is found by its rpath; what the user sets goes first."""
    libraries = sorted(HERE.parent.glob("onnxruntime/capi/libonnxruntime.so*"))
    if libraries:
        os.environ.setdefault("ORT_DYLIB_PATH", str(libraries[-1]))
    program = HERE / "bin/scdd"
    os.execv(program, [str(program), *sys.argv[1:]])
