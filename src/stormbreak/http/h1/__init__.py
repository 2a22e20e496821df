"""HTTP/1.1: connections to servers, the decoding of bodies, and failures as outcomes."""
