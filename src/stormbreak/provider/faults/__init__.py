"""How each kind of trouble is played: every fault turns a request and its answer into a script."""
