/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The unit of a ring buffer's size. */
#define PAGE_SIZE 4096
