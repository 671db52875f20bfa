# SPDX-License-Identifier: Apache-2.0
"""One module for each revision of the tables, in the order of their numbers."""
