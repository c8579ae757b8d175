"""HTTP of both services: problem documents, request ids, body limits, API keys, health.

Nothing here knows of faces, templates or galleries.
"""
