/* SPDX-License-Identifier: GPL-2.0-or-later */
/* BCC leaves out what is older than 4.8; raw tracepoints are not bound to a version. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 12, 0)
