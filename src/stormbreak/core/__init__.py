"""Retries, breakers, limits, budgets, queues. Pure: it decides and never acts.

The main values:

- `now`, `uniform`: the time in seconds, and a random number within [0, 1); both come from the driver;
- flow: a call, as a generator of commands to the driver;
- ticket: a place in the queue of a target, until the call is granted a permit, rejected or withdrawn;
- permit: permission to send one attempt, settled once; it has a token of each gate, which the gate gets back;
- flight: the token of the diagnosis, an attempt in flight;
- turn: a row of a batch whose turn it is.
"""
