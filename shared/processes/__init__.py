"""Runs services as processes on this machine: for ``make run``, the demo, the lab, tests and measurements."""
