"""Reports for eyes: one HTML file that needs nothing else, or one picture, of a storm, a batch or costs.

Start with `destination.py`, which is all that a command needs to know. The extra `report` brings what draws and fills in.
"""
