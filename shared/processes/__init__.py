"""Runs services as processes on this machine: for ``make run``, the demo, the lab, tests and measurements.

Also tells in lines how far long work of a command is, where there is no terminal.
"""
