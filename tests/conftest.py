# SPDX-License-Identifier: Apache-2.0
"""For all tests."""

from __future__ import annotations

# pytest rewrites the asserts of anyio's modules when they are imported, because anyio ships a plugin. A server's thread
# that imports them while another thread compiles trips over a fault of CPython 3.11 (python/cpython#106905); here they
# are imported before any thread is there.
import anyio._backends._asyncio
import anyio.from_thread
import anyio.streams.memory
import anyio.to_thread  # noqa: F401
