"""Schemathesis against both running services: do they keep to their OpenAPI documents?

``__main__`` starts the services and runs schemathesis' own command on each; ``cloud.toml`` and ``edge.toml`` say what
is checked; ``hooks`` draws valid templates and pictures.
"""
