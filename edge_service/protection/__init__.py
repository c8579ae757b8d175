"""Raw embeddings in, protected templates out: profiles, keys, and the steps of protection.

The only path from an embedding to the wire leads through ``Protector.protect``. Nothing here knows of pictures or HTTP.
"""
