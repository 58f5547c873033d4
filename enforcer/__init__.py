# SPDX-License-Identifier: GPL-2.0-or-later
"""mount-enforcer: every mount on a cluster node is authorised by the cluster before the disk is touched."""

__version__ = "0.1.0"
