"""What a person or a script sees of the daemon: log, status, readiness."""
