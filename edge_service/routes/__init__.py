"""The REST interface, a file a resource.

Handlers read the request, call ``Recognition`` or the cloud, and answer.
"""
