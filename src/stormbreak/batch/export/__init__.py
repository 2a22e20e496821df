"""Tables of answers: the rows of INPUT with their results in more columns."""
