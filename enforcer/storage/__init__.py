# SPDX-License-Identifier: GPL-2.0-or-later
"""What a block device number means: which LUNs lie below it, who uses it already, what a caller named.

Everything here reads sysfs, /proc and netlink, or asks the kernel by ioctl. udev is never asked, because its
database is other people's rules run late; nothing is started, because the daemon must not wait for an exec
from a filesystem that it guards itself. Nothing here imports another part of the package than
``enforcer.model``.
"""
