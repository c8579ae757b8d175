"""The cloud: stores protected templates, and matches them against an unchanged threshold.

It takes no picture and returns no template. It never imports the edge.
"""
