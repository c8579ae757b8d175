"""Model files: the manifest that pins them, and how they are fetched, converted and checked.

This ends with a file on disk whose digest is right. `edge_service.vision` runs the models.
"""
