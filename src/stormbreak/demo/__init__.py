"""The demo: one storm, played against the article's code and against stormbreak."""
