# SPDX-License-Identifier: GPL-2.0-or-later
"""The two seams to the cluster: who may use a resource (LeaseStore), what the cluster knows (ClusterView)."""
