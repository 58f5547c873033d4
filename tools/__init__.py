# SPDX-License-Identifier: GPL-2.0-or-later
"""Tools around the package: nothing here is installed."""
