"""What stands behind the command line: overrides, sweeps, sheets of views."""
