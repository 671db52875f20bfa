# SPDX-License-Identifier: Apache-2.0
"""How the plots in docs/benchmarks look: colours and matplotlib's settings, the same in all of them."""

from __future__ import annotations

from typing import Any

OURS, SHADE, THEIRS, LIMIT, DARK = "#0b6e99", "#5aa9c8", "#8f8f8f", "#c8553d", "#333333"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "rookery",  # the same numbers give the same file
}
