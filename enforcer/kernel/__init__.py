# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel half as Python sees it: the shared layout, loading and pinning, tables, events, the upcall."""
