# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator types: ``enforcer audit``, ``explain``, ``who``, ``status`` and the rest."""
