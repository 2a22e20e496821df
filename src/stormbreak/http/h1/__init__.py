"""HTTP/1.1: connections to servers, the decompression of bodies, failures as outcomes; and a server."""
