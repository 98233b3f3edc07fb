"""Puts the registry of data sets, which lies above this directory in a checkout, into the wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        # Beside this file where the wheel is built from a source distribution.
        folder = next(
            place for place in (root.parent / "datasets", root / "datasets") if place.is_dir()
        )
        build_data["force_include"][str(folder)] = "datasets"
