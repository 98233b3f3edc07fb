"""docs/generated.md against the files and the Makefile: which generated file comes from which
command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")


def read_rows() -> list[tuple[list[str], str, str]]:
    """Patterns of files, command and cost of each row of the table."""
    lines = (ROOT / "docs/generated.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]
    return [(CODE.findall(files), CODE.findall(command)[0], cost) for files, command, cost in cells]


ROWS = read_rows()


@pytest.mark.parametrize(("patterns", "command"), [(files, command) for files, command, _ in ROWS])
def test_generated_files_exist_and_name_their_command(patterns: list[str], command: str):
    found = {pattern: sorted(ROOT.glob(pattern)) for pattern in patterns}
    assert all(found.values()), found
    module = re.fullmatch(r"python -m (tests\.goldens\.\w+)", command)
    if module:
        script = (ROOT / f"{module[1].replace('.', '/')}.py").read_text(encoding="utf-8")
        assert all(
            pattern.removeprefix("tests/goldens/").rstrip("*") in script for pattern in patterns
        )
    # Where there is room for a sentence, it says who wrote the file.
    texts = [path for paths in found.values() for path in paths if path.suffix in (".md", ".toml")]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert all(part.strip() in text for part in command.split("…")), path


def test_make_regenerate_runs_the_cheap_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^regenerate:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    helps = {"python -m exporters.conformance $(TARGET)/conformance", "git status --short"}
    run = [line.strip() for line in recipe[1].splitlines()]
    assert [line for line in run if line not in helps] == [
        command for _, command, cost in ROWS if cost == "cheap"
    ]


def test_no_generated_file_is_missing_from_the_table():
    listed = {
        path for patterns, _, _ in ROWS for pattern in patterns for path in ROOT.glob(pattern)
    }
    marks = re.compile(r"[Ww]ritten by `|`make bench` runs")
    generated = [
        *(path for pattern in ("*.json", "*.svg") for path in ROOT.glob(f"docs/{pattern}")),
        *(
            path
            for path in ROOT.glob("docs/*.md")
            if marks.search(path.read_text(encoding="utf-8"))
        ),
        *(
            path
            for path in ROOT.glob("tests/goldens/**/*")
            if path.suffix in (".safetensors", ".json", ".scdd")
        ),
        *ROOT.glob("src/**/*.snap"),
    ]
    assert [path for path in generated if path not in listed] == []
