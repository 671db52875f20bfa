# SPDX-License-Identifier: Apache-2.0
"""Other machines, over SSH: what is copied from them (trees/capture.py), and what they build."""
