/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Included by BCC; the witness needs nothing of it. */
