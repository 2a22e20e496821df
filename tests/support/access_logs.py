"""Logs of a provider: clients without retries call the provider model, and each request becomes a line."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from heapq import heappop, heappush
from math import inf

from stormbreak.provider.capacity_model import ProviderModel
from stormbreak.provider.fault_kinds import REFUSALS, STATUSES, Kind
from stormbreak.storm.access_log import Entry
from stormbreak.storm.simulated_provider import delay_of
from stormbreak.storm.traffic import traffic

GAVE_UP = 499  # the status of nginx


def provider_log(scenario, seed=1):
    """The entries of a log, ordered by the end of requests."""
    load = scenario.load
    background = scenario.background_traffic if load.keep_background_traffic else None
    model = ProviderModel(replace(scenario, background_traffic=background), seed)
    calls = traffic(load, scenario.duration, seed)
    entries, arrived, timeouts = [], {}, []

    def end(request, at, status):
        entries.append((at, Entry(arrived[request], at - arrived[request], status)))
        del arrived[request]

    def advance(until):
        while (at := next_at(model)) <= until:
            for reply in model.advance(at):
                ends = reply.at + delay_of(reply)
                if reply.request in arrived and ends <= arrived[reply.request] + load.timeout:
                    end(reply.request, ends, status_of(reply.fault))

    def give_up(until):
        while timeouts and timeouts[0][0] <= until:
            at, request = heappop(timeouts)
            advance(at)
            if request in arrived:
                model.abandon(request, at)
                end(request, at, GAVE_UP)

    for number, at in enumerate(calls.times):
        give_up(at)
        advance(at)
        request = model.arrive(at, number, tokens=calls.tokens[number])
        arrived[request] = at
        heappush(timeouts, (at + load.timeout, request))
        for reply in model.advance(at):
            if reply.request in arrived:
                end(reply.request, reply.at, status_of(reply.fault))
    give_up(inf)
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]


def next_at(model):
    at = model.next_event_at()
    return inf if at is None else at


def status_of(fault):
    if fault is None:
        return 200
    if fault.kind in STATUSES:
        return int(fault.kind)
    if fault.kind is Kind.DOWN:
        return 503
    return 502 if fault.kind in REFUSALS else 200


_EPOCH = 1_795_000_000


def as_json(entries):
    """JSON lines with the time of the arrival, in milliseconds."""
    return "".join(
        json.dumps({"time": round(e.at, 3), "latency": round(e.latency, 3), "status": e.status})
        + "\n"
        for e in entries
    )


def as_nginx(entries):
    """The combined format of nginx: the end in whole seconds, and $request_time after it."""
    lines = []
    for entry in entries:
        when = datetime.fromtimestamp(_EPOCH + int(entry.at + entry.latency), UTC)
        lines.append(
            f'10.0.0.1 - - [{when:%d/%b/%Y:%H:%M:%S} +0000] "POST /v1/chat/completions HTTP/1.1"'
            f' {entry.status} 512 "-" "python" {entry.latency:.3f}\n'
        )
    return "".join(lines)
