"""A wire over another transport of the HTTP library."""


class InnerWire:
    def __init__(self, library, inner): ...
