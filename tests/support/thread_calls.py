"""Run a call on this thread with a `ThreadDriver`: the caller makes the attempts, as in `resilient`."""

from stormbreak.drivers.delivery import Delivery
from stormbreak.types import Outcome, Verdict


def run_call(driver, call, sender):
    """Run a call to its end; `sender` makes one attempt, in its context. An exception of it closes the call."""
    held = driver.begin(call)
    try:
        while (send := driver.wait_to_send(held)) is not None:
            held.answer(_sent(driver, call, sender, send))
    finally:
        held.close()
    return held.command


def _sent(driver, call, sender, send):
    listener = driver.engine.context_listener
    if listener is None:
        return sender(send)
    with listener.around(call.number, send):
        return sender(send)


def open_call(driver, call):
    """Run a call that delivers to the first output of its first attempt; return its delivery."""
    held = driver.begin(call)
    driver.wait_to_send(held)
    held.answer(Outcome(Verdict.OK, committed=True))
    flow, held.flow = held.flow, None
    return Delivery(driver._stepper, flow, held.command)
