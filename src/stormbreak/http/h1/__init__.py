"""HTTP/1.1: connections to servers, the decoding of bodies, failures as outcomes; and a server."""
