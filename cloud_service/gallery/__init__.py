"""What the cloud keeps and how it matches: the record (SQL, the truth), the index (derived), the store, the matcher.

The store is the only place where record and index are written. Nothing here knows of HTTP.
"""
