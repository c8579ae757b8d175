"""Runs the pair: on one machine (``run_pair``, ``demo``) and in containers. Also pins the models that it runs on."""
