# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults at random, each at a chosen moment in the life of a lease, and a check that shares nothing with the product.

``plan`` says what is done (pure: the same seed, the same steps), ``runner`` brings a lease into the state that a step
names and does it to the lab's two nodes, ``faults`` and ``uses`` are its hands. What is true is written down by two
others: the storage server's log of requests, and ``watch``, which hears every revision of the store. ``check`` holds
these two against each other, and nothing else.
"""
