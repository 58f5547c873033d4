# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens with one ask: devices classified, leases taken and given back, the verdict reached."""
