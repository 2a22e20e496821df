"""The embedded provider: a pure model of capacity and faults, and a server on real sockets."""
