"""enforcer-keeper: the node's session, the kernel's deadline, the daemon's progress. Nothing else."""
