# SPDX-License-Identifier: Apache-2.0
"""From a recipe to a root file system, kernel and drivers."""
