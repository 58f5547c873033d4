"""enforcerd: one asyncio loop around the kernel's asks."""
