"""The parts of `curl.study.compare`: runs -> grid -> analysis -> report and plots -> rendering."""
