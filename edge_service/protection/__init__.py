"""Raw embeddings in, protected templates out: profiles, keys, and the steps of protection.

``Protector.protect`` is the only path from an embedding to the wire. No pictures or HTTP here.
"""
