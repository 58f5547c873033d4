# SPDX-License-Identifier: GPL-2.0-or-later
"""enforcer-revoker: when the session is lost, it cuts this node off what was leased to it. Nothing else."""
