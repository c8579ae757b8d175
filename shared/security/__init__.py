"""Secrets of both services: API keys, private files, TLS, and what a process may leave in dumps and swap."""
