# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node that loses its session has promised: the settings, and the files by which keeper, daemon and revoker
agree on it. They meet in the run directory, which a reboot empties."""
