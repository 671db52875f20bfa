# SPDX-License-Identifier: Apache-2.0
"""What runs on the head, in the order a node meets it."""
