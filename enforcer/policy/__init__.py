# SPDX-License-Identifier: GPL-2.0-or-later
"""What the administrator wants: files, rules, decisions. It imports the model only."""
