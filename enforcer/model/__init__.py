# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts that every other part speaks of: resources, leases, intents, verdicts, errors.

Nothing here does I/O and nothing here imports another part of the package.
"""
