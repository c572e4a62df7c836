"""The parts of `curl.compare`: runs -> grid -> analysis -> report and plots -> rendering."""
