"""Protection profiles: the steps that protect an embedding, as data.

Each folder here is a profile: ``profile.json`` and the files that its steps need. Its digest covers all of them except
the model card, which is for people.
"""
