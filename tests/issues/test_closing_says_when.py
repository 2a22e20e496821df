"""A GeneratorExit thrown into a flow reaches the frame that holds the permit as a bare one (PEP 380), so
permits were settled at the time of the last step: whoever was granted the slot then had a false start time,
and gates that had opened meanwhile looked closed.
"""

from stage import Stage, policy

from stormbreak.core.concurrency_limit import FixedLimit


def test_a_permit_passed_on_by_closing_was_taken_then():
    stage = Stage(policy(limit=FixedLimit(max_in_flight=1)))
    run, waiting = stage.start(), stage.start()
    stage.now += 50.0
    run.close()

    assert waiting.command.ticket.permit.sent_at == stage.now
