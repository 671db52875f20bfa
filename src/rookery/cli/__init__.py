# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per noun; it speaks to the head only through api."""
