# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab of virtual machines with shared disks, for what only a kernel of one's own can show.

The usual way in is ``Lab`` in tools/lab/lab.py. Nothing is imported here: the guests' agent lives in this
package.
"""
