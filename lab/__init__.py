"""Measurements: what is done with face data and with running services, apart from serving.

No service imports it. It imports ``shared`` and the edge's vision and privacy: what is measured is what is served.
"""
