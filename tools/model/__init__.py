# SPDX-License-Identifier: GPL-2.0-or-later
"""Every order of events for two nodes, one store and one disk, driven through the functions that really run."""
