# SPDX-License-Identifier: Apache-2.0
"""How a version becomes a running node: one module per mode."""
