# SPDX-License-Identifier: GPL-2.0-or-later
"""enforcer-keeper: the node's session, the kernel's deadline, the daemon's progress. Nothing else."""
