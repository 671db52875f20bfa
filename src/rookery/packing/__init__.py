# SPDX-License-Identifier: Apache-2.0
"""A directory as one archive: packed by the head to publish it, and by whoever updates to have the older one again."""
