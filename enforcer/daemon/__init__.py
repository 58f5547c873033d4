# SPDX-License-Identifier: GPL-2.0-or-later
"""enforcerd: one asyncio loop around the kernel's asks."""
