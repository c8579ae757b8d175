"""Secrets of both services: API keys, private files, TLS, memory; limits of a process."""
