"""The embedded provider: a pure model of capacity and trouble, and its skin on real sockets."""
