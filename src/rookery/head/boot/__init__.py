# SPDX-License-Identifier: Apache-2.0
"""What a machine gets before it runs our code: DHCP, boot loaders, boot script, agent."""
