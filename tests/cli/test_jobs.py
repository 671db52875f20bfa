# SPDX-License-Identifier: Apache-2.0
"""The bar of a job on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rookery.cli import jobs

LONG = "Get:1 [signed-by=/etc/key] [bold]http://debian.example/debian bookworm/main amd64 Packages [8791 kB] " * 3


@pytest.mark.parametrize("width", [80, 120, 40])
@pytest.mark.parametrize("line", [LONG, "日本語" * 60, "tab\there\r\nand\x1b[2Jthere " * 9, "", "[/]"])
def test_a_bar_is_one_row(width: int, line: str) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with jobs.progress(console) as bar:
        task = bar.add_task("build", total=None, unit="steps", line="")
        for total, unit in ((None, "steps"), (10**12, "bytes")):
            bar.update(
                task, description="a stage " * 12, total=total, completed=5e11, unit=unit, line=jobs.one_row(line)
            )
            rows = console.render_lines(bar.get_renderable(), pad=False)
            assert len(rows) == 1
            assert sum(part.cell_length for part in rows[0]) <= width
    if line is LONG and width == 120:
        assert "[signed-by=/etc/key] [bold]" in console.file.getvalue()  # type: ignore[attr-defined]
