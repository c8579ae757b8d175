"""A cloud that is killed without warning, over and over, under load: what it acknowledged must be there each time.

``model`` is what must hold; ``load`` are the callers; ``series`` is a cycle: load, kill, start, check; ``scan`` looks
for erased vectors in the files; ``__main__`` is the command.
"""
