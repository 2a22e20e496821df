"""Reports on a storm, a batch or costs: one HTML file without dependencies, or one picture. Needs the extra `report`.

Commands use `destination.py` only.
"""
