# SPDX-License-Identifier: Apache-2.0
"""What head and node say to each other: pure data, no I/O, standard library only."""
