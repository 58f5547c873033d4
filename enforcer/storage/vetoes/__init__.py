# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk itself says about who uses it, whether or not that node asks anybody.

One module for each kind of mark: ext4's multiple mount protection, the slot map of OCFS2, sanlock's leader records,
the system ID of an LVM volume group, SCSI-3 persistent reservations. They permit nothing; they object.
"""
