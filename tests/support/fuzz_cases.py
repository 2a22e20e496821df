"""Cases that are mostly right and then broken: see `fuzz_rig.Case`."""

from dataclasses import replace

from fuzz_answers import ENDPOINTS, NOTES, ODD, STREAMED, WELL_FORMED, framed, meant
from fuzz_breaks import CUTS, all_of, breaks
from fuzz_rig import ENDS, WAYS, Case
from hypothesis import strategies as st


@st.composite
def cases(draw):
    """Draw a case: an answer, the damage to its body, its framing, the damage to the frame, and its arrival."""
    way = draw(st.sampled_from(WAYS))
    streams = way != "request"
    endpoint = draw(st.sampled_from(tuple(STREAMED) if streams else ENDPOINTS))
    of = draw(meant(endpoint, wants_stream=streams))
    within = draw(breaks(2))
    notes = [*of.notes, *draw(st.sampled_from([[], *NOTES]))]
    odd = draw(st.lists(st.sampled_from(ODD), max_size=2))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    coding = draw(st.sampled_from(["", "", "", "gzip", "deflate"]))
    body = all_of(within, of.body)
    whole = framed(of, body, notes + odd, framing=framing, coding=coding)
    around = draw(breaks(1)) if draw(st.booleans()) else ()
    sent = all_of(around, whole)
    end = draw(st.sampled_from(ENDS))
    if framing == "close" and end in ("keep", "trickle"):
        end = "close"
    kinds = {kind for kind, *_ in (*within, *around)}
    return Case(
        endpoint,
        way,
        replace(of, notes=()),
        sent,
        sizes=draw(st.sampled_from([(), (7,), (1, 64, 3), (61,), (4096,)])),
        end=end,
        hurried=draw(st.booleans()),
        cut=bool(kinds & CUTS) or (end == "silence" and framing == "close"),
        harm=bool(kinds - CUTS) or not WELL_FORMED.issuperset(odd),
    )
