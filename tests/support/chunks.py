"""Chunks of a streamed chat completion as values, and the answer assembled from them."""

from stormbreak.llm.chat import ChatAssembly


def assembled(*chunks):
    assembly = ChatAssembly()
    for chunk in chunks:
        assembly.add(chunk)
    return assembly.result()


def choice(delta, **fields):
    return {"choices": [{"index": 0, "delta": delta, **fields}]}


def message(*deltas):
    return assembled(*map(choice, deltas))["choices"][0]["message"]


def call(index=None, name=None, arguments=None, **fields):
    function = {
        key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None
    }
    at = {} if index is None else {"index": index}
    return {"tool_calls": [{**at, **fields, "function": function}]}


def whole_call(name, function, arguments):
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}
