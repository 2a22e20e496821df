"""A name that every page and picture must show as text."""

# An element, an attribute, an entity, the end of a comment, a formula.
EVIL = "<img src=x onerror=boom()>&lt;\"'$x$-->\u202e"
