"""A GeneratorExit thrown into a flow reaches the frame with the permit without its arguments (PEP 380), so permits were
settled at the time of the last step: the next call got a wrong start time, and gates that had opened in the meantime
looked closed.
"""

from stage import Stage, policy

from stormbreak.core.concurrency_limit import FixedLimit


def test_closing_a_flow_passes_its_permit_on_at_the_current_time():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))
    run, waiting = stage.start(), stage.start()
    stage.now += 50.0
    run.close()

    assert waiting.command.ticket.permit.sent_at == stage.now
