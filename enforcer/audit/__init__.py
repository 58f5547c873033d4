# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of every intent: built, chained, written, verified, and told to the caller who was refused.

Nothing here is on the way of a verdict: whatever fails here is counted and said, and the verdict stands.
"""
