"""The folder of conformance cases is written whole, and no other folder is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import conformance


def test_a_folder_with_other_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(SystemExit) as ended:
        conformance.main([str(tmp_path)])
    assert ended.value.code == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "all of it"
