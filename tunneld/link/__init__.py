"""Links, addresses, routes and sysctls: everything that is done to the kernel, idempotent."""
