"""The edge: sees pictures, and sends nothing but protected templates.

It never imports the cloud; what both agree on is in ``shared``.
"""
