"""A name that no page and no picture may take for more than text."""

# An element, an attribute, an entity, a comment's end, a formula.
EVIL = "<img src=x onerror=boom()>&lt;\"'$x$-->\u202e"
