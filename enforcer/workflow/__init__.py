"""What happens with one ask: devices classified, leases taken and given back, the verdict reached."""
