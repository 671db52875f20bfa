# SPDX-License-Identifier: Apache-2.0
"""Logging: one format, one line an event, on standard error (the journal adds time and unit)."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


def logger(name: str) -> logging.Logger:
    """The logger of a module: `log = logger(__name__)`."""
    return logging.getLogger(name)


def setup(verbose: bool = False, stream: TextIO | None = None, times: bool = True) -> None:
    """Send log lines to `stream` (standard error) from level INFO, or DEBUG with `verbose`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    clock = "%(asctime)s " if times else ""
    handler.setFormatter(logging.Formatter(f"{clock}%(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
