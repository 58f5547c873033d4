/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What BCC's own headers ask of a kernel's configuration. */
#define CONFIG_BPF_SYSCALL 1
