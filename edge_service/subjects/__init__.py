"""What the edge does with subjects of a gallery: sends their templates, enrolls, lists and moves them.

Their names are sealed by ``protection/names.py`` before they leave. Pictures and embeddings are ``recognition.py``'s.
"""
