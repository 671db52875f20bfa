# SPDX-License-Identifier: Apache-2.0
"""The nodes as a whole: states, orders, credentials."""
