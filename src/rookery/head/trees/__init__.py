# SPDX-License-Identifier: Apache-2.0
"""Working trees: an image's root as a directory that a person changes, and then publishes."""
