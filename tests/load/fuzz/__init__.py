"""Schemathesis against both services as they run: what their OpenAPI documents promise, tried with all sorts of input.

``__main__`` starts the services and runs schemathesis' own command on each; ``cloud.toml`` and ``edge.toml`` say what
is checked; ``hooks`` draws templates and pictures that get past the door.
"""
