"""Simulations that others have published, played again with our policies: see docs/background/published.md.

What was published is taken from its description and written anew, twice. `bare_*` is the published model alone, as plain as
can be, without any of our code: it stands for the published simulator. Beside it the same world is played with our engine
as the client, on a virtual timeline. If the two agree, our policies do what the publication says of such policies.
"""
