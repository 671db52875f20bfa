# SPDX-License-Identifier: Apache-2.0
"""Passing verified pieces on over TCP, while they come: the links of which the chain is made."""
