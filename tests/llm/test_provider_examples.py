"""Responses of single providers: complete ones are accepted, incomplete ones are not, and no answer is paid twice."""

import json

from streamed import DONE, chunk, event, message, response, typed, whole_message, whole_response
from table_test import table_test

from stormbreak.llm.endpoints import Shape, shape_of
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.stream_reader import StreamAssembler, StreamScanner
from stormbreak.types import TREATMENTS, Tally, Usage, Verdict

MESSAGE = {"role": "assistant", "content": "Hi"}
TEXTS = shape_of("https://host/v1/completions")


def read(body, shape=Shape.CHAT, status=200, **asked):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(HttpResponse(status, {}, raw, 0.0), shape, **asked)


def assembled(events, shape=Shape.CHAT, **asked):
    """The verdict of a stream, and the assembled body."""
    assembler = StreamAssembler(shape, **asked)
    assembler.feed(b"".join(events))
    reading, body = assembler.end()
    return reading, json.loads(body) if body else None


def scanned(events, shape=Shape.CHAT, **asked):
    scanner = StreamScanner(shape, **asked)
    for each in events:
        scanner.feed(each)
    return scanner.end()[0]


def choice(reason, message=None, **more):
    own = {} if message is None else {"message": message}
    return {"index": 0, "finish_reason": reason, **own, **more}


def bare_chunk(reason, **more):
    return event({"choices": [{"index": 0, "finish_reason": reason, **more}]})


FILTERED = [
    "content_filter: PROHIBITED_CONTENT",
    "content_filter: SOMETHING_NEW",
    "content_filter",
    "SAFETY",
    "recitation",
    "BLOCKLIST",
    "prohibited_content",
    "SPII",
    "LANGUAGE",
    "IMAGE_SAFETY",
    "OTHER",
    "refusal",
    "guardrail_intervened",
    "sensitive",
]


@table_test("reason", FILTERED)
@table_test("empty", [None, {}, {"role": "assistant", "content": None}])
def test_an_empty_filtered_answer_is_final(reason, empty):
    reading = read({"choices": [choice(reason, empty)], "usage": {"prompt_tokens": 7}})
    assert reading.verdict is Verdict.FILTERED
    assert not TREATMENTS[reading.verdict].retry
    assert reading.usage == Usage(input_tokens=7)
    assert reading.code
    assert reading.maybe_processed


@table_test("reason", FILTERED)
def test_an_empty_filtered_stream_is_final(reason):
    for events in ([bare_chunk(reason), DONE], [chunk("", role="assistant"), bare_chunk(reason)]):
        assert assembled(events)[0].verdict is Verdict.FILTERED
        assert scanned(events).verdict is Verdict.FILTERED


@table_test("reason", FILTERED)
@table_test(
    "message", [{"content": "Hi"}, {"content": None, "refusal": "No."}, {"tool_calls": [{}]}]
)
def test_output_before_a_filter_is_an_answer(reason, message):
    reading = read({"choices": [choice(reason, message)]})
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, reason)
    events = [chunk(**message), bare_chunk(reason), DONE]
    assert assembled(events)[0].verdict is Verdict.OK
    assert scanned(events).verdict is Verdict.OK


def test_one_filtered_choice_does_not_spoil_the_others():
    reading = read({"choices": [choice("content_filter"), choice("stop", MESSAGE)]}, choices=2)
    assert (reading.verdict, reading.text) == (Verdict.OK, "")


def test_an_empty_refusal_of_anthropic_is_filtered():
    empty = whole_message([""], "refusal")
    assert read(empty, Shape.MESSAGES).verdict is Verdict.FILTERED
    assert read(empty | {"content": []}, Shape.MESSAGES).verdict is Verdict.FILTERED
    assert read(whole_message(["Hi"], "refusal"), Shape.MESSAGES).verdict is Verdict.OK
    for texts, verdict in ([], Verdict.FILTERED), (["Hi"], Verdict.OK):
        events = message(texts, "refusal")
        assert assembled(events, Shape.MESSAGES)[0].verdict is verdict
        assert scanned(events, Shape.MESSAGES).verdict is verdict


def test_an_empty_filtered_response_is_filtered():
    cut = {"incomplete_details": {"reason": "content_filter"}}
    for texts, verdict in ([], Verdict.FILTERED), (["Hi"], Verdict.OK):
        assert read(whole_response(texts, "incomplete", **cut), Shape.RESPONSES).verdict is verdict
    events = [
        typed("response.created", response={}),
        typed("response.incomplete", response={"status": "incomplete", "output": [], **cut}),
    ]
    assert assembled(events, Shape.RESPONSES)[0].verdict is Verdict.FILTERED
    assert scanned(events, Shape.RESPONSES).verdict is Verdict.FILTERED


def test_a_filter_of_azure_that_did_not_run_is_no_error():
    beside = {"content_filter_results": {"error": {"code": "content_filter_error"}}}
    assert read({"choices": [choice("stop", MESSAGE, **beside)]}).verdict is Verdict.OK


@table_test(
    "code", ["invalid_prompt", "bio_policy", "misalignment_policy_violation", "invalid_image_url"]
)
def test_a_response_that_failed_because_of_its_prompt_is_final(code):
    failed = {"status": "failed", "error": {"code": code, "message": "x"}}
    assert not TREATMENTS[read(failed, Shape.RESPONSES).verdict].retry


HALF = {
    "insufficient_system_resource": Verdict.OVERLOADED,
    "abort": Verdict.SERVER_ERROR,
    "network_error": Verdict.SERVER_ERROR,
    "ERROR": Verdict.SERVER_ERROR,
    "error": Verdict.SERVER_ERROR,
}


@table_test(("reason", "verdict"), HALF.items())
def test_an_aborted_answer_is_an_error_however_much_came(reason, verdict):
    assert read({"choices": [choice(reason, MESSAGE)]}).verdict is verdict
    two = {"choices": [choice("stop", MESSAGE), choice(reason, MESSAGE)]}
    assert read(two, choices=2).verdict is verdict
    assert TREATMENTS[verdict].tally is Tally.FAILURE
    events = [chunk("Hi"), bare_chunk(reason), DONE]
    assert assembled(events)[0].verdict is verdict
    assert scanned(events).verdict is verdict


@table_test("reason", ["malformed_function_call", "MALFORMED_RESPONSE"])
def test_a_malformed_function_call_is_broken_without_other_output(reason):
    full_reason = f"function_call_filter: {reason}"
    assert read({"choices": [choice(full_reason)]}).verdict is Verdict.BROKEN
    assert read({"choices": [choice(full_reason, MESSAGE)]}).verdict is Verdict.OK


@table_test("reason", ["something_new", "STOP", "end_turn", "eos", "model_length"])
def test_an_unknown_finish_reason_ends_an_answer(reason):
    """Refusing it would pay for every good answer again. Without a message it is broken."""
    reading = read({"choices": [choice(reason, MESSAGE)]})
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, reason)
    assert read({"choices": [choice(reason)]}).verdict is Verdict.BROKEN


@table_test("error", ["over_capacity", {"message": "stopped early"}])
def test_an_error_of_groq_beside_a_finish_reason_is_an_error(error):
    beside = {"x_groq": {"id": "r", "error": error}}
    assert read({"choices": [choice("stop", MESSAGE)], **beside}).verdict is Verdict.SERVER_ERROR
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **beside})
    for events in ([chunk("Hi"), last, DONE], [chunk("Hi"), chunk("!"), last]):
        assert assembled(events)[0].verdict is Verdict.SERVER_ERROR
        assert scanned(events).verdict is Verdict.SERVER_ERROR
    fine = {"x_groq": {"id": "r", "error": None, "usage": {"prompt_tokens": 1}}}
    assert read({"choices": [choice("stop", MESSAGE)], **fine}).verdict is Verdict.OK


@table_test(
    ("code", "verdict"),
    [
        (1000, Verdict.SERVER_ERROR),
        (1001, Verdict.TIMEOUT),
        (1002, Verdict.THROTTLED),
        (1004, Verdict.AUTH),
        (1008, Verdict.BILLING),
        (1026, Verdict.FILTERED),
        (1027, Verdict.FILTERED),
        (2013, Verdict.INVALID),
        (9999, Verdict.SERVER_ERROR),
    ],
)
def test_an_error_of_minimax_in_a_success_is_an_error(code, verdict):
    payload = {"base_resp": {"status_code": code, "status_msg": "x"}}
    for body in ({"choices": None, **payload}, {"choices": [choice("stop", MESSAGE)], **payload}):
        reading = read(body)
        assert (reading.verdict, reading.code) == (verdict, str(code))
    assert read(payload, Shape.JSON).verdict is verdict
    events = [event({"choices": None, **payload})]
    assert assembled(events)[0].verdict is verdict
    assert scanned(events).verdict is verdict


def test_a_success_of_minimax_is_ok():
    payload = {"base_resp": {"status_code": 0, "status_msg": "success"}}
    assert read({"choices": [choice("stop", MESSAGE)], **payload}).verdict is Verdict.OK
    events = [chunk("Hi"), event({"choices": [choice("stop")], **payload}), DONE]
    assert assembled(events)[0].verdict is Verdict.OK


def test_a_status_beside_the_error_decides():
    """Cerebras: the status is outside the error object of a stream."""
    payload = {"error": {"message": "x", "type": "t"}, "status_code": 503}
    assert assembled([event(payload)])[0].verdict is Verdict.OVERLOADED
    assert read(payload).verdict is Verdict.OVERLOADED


def test_a_code_beside_a_text_error_decides():
    """xAI and TGI."""
    assert read({"code": "invalid_argument", "error": "x"}).verdict is Verdict.INVALID
    payload = {"error": "x", "error_type": "overloaded"}
    assert read(payload).verdict is Verdict.OVERLOADED


@table_test("status", [403, 429])
def test_used_up_credits_of_xai_are_billing(status):
    message_text = (
        "Your team t has either used all available credits or reached its monthly spending limit."
    )
    payload = {"code": "Some resource has been exhausted", "error": message_text}
    assert read(payload, status=status).verdict is Verdict.BILLING


def test_a_content_refusal_of_xai_is_filtered():
    message_text = "Content violates usage guidelines. Team: t, Failed check: SAFETY_CHECK_TYPE_BIO"
    assert read({"code": "x", "error": message_text}, status=403).verdict is Verdict.FILTERED


def test_a_suspended_account_of_fireworks_is_billing():
    message_text = "Account acme is suspended, possibly due to reaching the monthly spending limit"
    assert read({"error": {"message": message_text}}, status=412).verdict is Verdict.BILLING


@table_test(("status", "verdict"), [(498, "overloaded"), (425, "server_error")])
@table_test("code", [None, "rate_limit_exceeded", "capacity_exceeded", "too_early"])
def test_statuses_498_and_425_override_any_code(status, verdict, code):
    reading = read({"error": {"message": "x", "code": code}}, status=status)
    assert reading.verdict == verdict
    assert TREATMENTS[reading.verdict].tally is Tally.FAILURE


ONE = {"object": "embedding", "embedding": [0.1, -2e-3]}


@table_test("odd", [None, True, "x", {}, [1]])
def test_a_vector_with_a_non_number_is_broken(odd):
    vector = [0.5, odd, 0.5]
    assert read({"data": [{"embedding": vector}]}, Shape.EMBEDDINGS).verdict is Verdict.BROKEN


@table_test(
    ("places", "verdict"),
    [
        ((0, 1), Verdict.OK),
        ((1, 0), Verdict.OK),
        ((None, 1), Verdict.OK),  # Gemini leaves out an index of 0
        ((None, None), Verdict.OK),
        ((0, 0), Verdict.BROKEN),
        ((1, 1), Verdict.BROKEN),
    ],
)
def test_every_embedding_needs_its_own_index(places, verdict):
    data = [ONE if place is None else ONE | {"index": place} for place in places]
    assert read({"data": data}, Shape.EMBEDDINGS, inputs=2).verdict is verdict


def test_base64_text_is_not_taken_for_null():
    assert read({"data": [{"embedding": "null"}]}, Shape.EMBEDDINGS).verdict is Verdict.OK


def test_log_probabilities_may_be_numbers():
    """Together: one number for the one token of a chunk."""
    parts = [
        event({"choices": [{"index": 0, "delta": {"content": text}, "logprobs": number}]})
        for text, number in (("H", -0.5), ("i", 0))
    ]
    reading, whole = assembled([*parts, bare_chunk("eos", logprobs=None), DONE])
    assert reading.verdict is Verdict.OK
    assert whole["choices"][0]["logprobs"] == {"token_logprobs": [-0.5, 0]}


def test_a_block_index_may_be_used_twice():
    """Ollama: thinking and text have the same index."""
    start, *_, count, stop = message([])
    events = [
        start,
        typed("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"}),
        typed("content_block_stop", index=0),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
        count,
        stop,
    ]
    reading, whole = assembled(events, Shape.MESSAGES)
    assert (reading.verdict, reading.text) == (Verdict.OK, "Hi")
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]


@table_test("left_out", [("output",), ("output", "status")])
def test_a_response_may_end_without_its_output(left_out):
    *events, _ = response(["Hi", "!"])
    whole = {k: v for k, v in whole_response(["Hi!"]).items() if k not in left_out}
    end = typed("response.completed", response=whole)
    without_items = [each for each in events if b"output_item" not in each]
    for before in (events, without_items):
        reading, body = assembled([*before, end], Shape.RESPONSES)
        assert (reading.verdict, reading.text) == (Verdict.OK, "Hi!")
        assert body["status"] == "completed"
        assert scanned([*before, end], Shape.RESPONSES).verdict is Verdict.OK
    assert assembled([events[0], end], Shape.RESPONSES)[0].verdict is Verdict.BROKEN
    assert scanned([events[0], end], Shape.RESPONSES).verdict is Verdict.BROKEN


@table_test(
    ("shape", "body"),
    [
        (Shape.CHAT, {"choices": [choice("stop", MESSAGE)]}),
        (Shape.EMBEDDINGS, {"data": [ONE]}),
        (Shape.RESPONSES, whole_response(["Hi"])),
        (Shape.MESSAGES, whole_message(["Hi"])),
        (Shape.JSON, {"id": "x"}),
        (Shape.RESOURCE, {"id": "x"}),
    ],
)
def test_a_byte_order_mark_before_json_is_ignored(shape, body):
    assert read(b"\xef\xbb\xbf" + json.dumps(body).encode(), shape).verdict is Verdict.OK
    error = b'\xef\xbb\xbf{"error": {"code": "insufficient_quota"}}'
    assert read(error, shape, status=429).verdict is Verdict.BILLING


def test_tool_calls_may_lack_an_index():
    parts = [
        {"index": None, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}},
        {"index": None, "function": {"arguments": "}"}},
        {"index": None, "id": "b", "type": "function", "function": {"name": "g"}},
    ]
    events = [chunk(tool_calls=[part]) for part in parts]
    reading, whole = assembled([*events, bare_chunk("tool_calls"), DONE])
    assert reading.verdict is Verdict.OK
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["f", "g"]
    assert calls[0]["function"]["arguments"] == "{}"


def test_choices_may_lack_an_index():
    nulls = [
        event({"choices": [{"index": None, "delta": {"content": "Hi"}, "finish_reason": None}]}),
        event({"choices": [{"index": None, "delta": None, "finish_reason": "stop"}]}),
    ]
    assert assembled(nulls)[0].text == "Hi"
    assert scanned(nulls).verdict is Verdict.OK


def test_fewer_choices_than_requested_are_accepted_and_reported():
    """A retry would not help: the answer is accepted, with a detail."""
    reading = read({"choices": [choice("stop", MESSAGE)]}, choices=3)
    assert (reading.verdict, reading.detail) == (Verdict.OK, "1 of 3 choices")
    events = [chunk("Hi"), chunk(None, "stop")]
    reading, _ = assembled([*events, DONE], choices=3)
    assert (reading.verdict, reading.detail) == (Verdict.OK, "1 of 3 choices")
    assert scanned([*events, DONE], choices=3).verdict is Verdict.OK
    assert assembled(events, choices=3)[0].verdict is Verdict.BROKEN  # it may have been cut
    assert scanned(events, choices=3).verdict is Verdict.BROKEN


def text_chunk(text, reason=None, index=0, **more):
    part = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, **more}
    return event({"id": "c", "object": "text_completion", "choices": [part]})


def test_a_streamed_text_completion_is_assembled():
    usage = event({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}})
    events = [text_chunk("Hi"), text_chunk(" there"), text_chunk("", "length"), usage, DONE]
    reading, whole = assembled(events, TEXTS)
    assert (reading.verdict, reading.text) == (Verdict.OK, "Hi there")
    assert reading.usage == Usage(input_tokens=2, output_tokens=2)
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [
        {"index": 0, "text": "Hi there", "logprobs": None, "finish_reason": "length"}
    ]
    reading = scanned(events, TEXTS)
    assert (reading.verdict, reading.finish_reason) == (Verdict.OK, "length")
    assert assembled(events[:2], TEXTS)[0].verdict is Verdict.BROKEN
    assert scanned(events[:2], TEXTS).verdict is Verdict.BROKEN


def test_two_text_completions_may_share_a_stream():
    events = [text_chunk("a"), text_chunk("b", index=1), text_chunk("", "stop", index=1)]
    assert assembled(events, TEXTS, choices=2)[0].verdict is Verdict.BROKEN
    _, whole = assembled([*events, text_chunk("c", "stop"), DONE], TEXTS, choices=2)
    assert [each["text"] for each in whole["choices"]] == ["ac", "b"]


def test_log_probabilities_of_a_text_completion_are_joined():
    parts = [
        text_chunk(text, logprobs={"tokens": [text], "text_offset": [at], "top_logprobs": None})
        for at, text in enumerate("Hi")
    ]
    _, whole = assembled([*parts, text_chunk("", "stop"), DONE], TEXTS)
    expected = {"tokens": ["H", "i"], "text_offset": [0, 1], "top_logprobs": None}
    assert whole["choices"][0]["logprobs"] == expected


@table_test(
    ("body", "verdict"),
    [
        ({"choices": [{"text": "Hi", "finish_reason": "stop"}]}, Verdict.OK),
        ({"choices": [{"text": "Hi", "finish_reason": None}]}, Verdict.OK),  # Azure
        ({"content": "Hi", "stop": True}, Verdict.OK),  # llama.cpp
        ({"choices": [{"text": "", "finish_reason": "content_filter"}]}, Verdict.FILTERED),
        ({"choices": [{"text": "Hi", "finish_reason": "abort"}]}, Verdict.SERVER_ERROR),
        ({"choices": [{"error": {"code": 503}}]}, Verdict.OVERLOADED),
        ({"choices": [{"text": None, "finish_reason": None}]}, Verdict.BROKEN),
        ({"choices": []}, Verdict.BROKEN),
        ({"request_id": "x"}, Verdict.BROKEN),
    ],
)
def test_a_plain_text_completion_is_read(body, verdict):
    assert read(body, TEXTS).verdict is verdict


def test_an_error_in_a_field_of_the_event_is_an_error():
    """llama.cpp until 2025."""
    error = {"code": 400, "message": "the request exceeds the available context size", "type": "x"}
    line = b"error: " + json.dumps(error).encode() + b"\n\n"
    for before in ([], [chunk("H"), chunk("i"), chunk("!")]):
        events = [*before, line, DONE]
        assert assembled(events)[0].verdict is Verdict.TOO_LONG
        assert scanned(events).verdict is Verdict.TOO_LONG
        assert scanned([b"".join(events)]).verdict is Verdict.TOO_LONG


def test_a_deferred_answer_is_not_retried():
    reading = read({"request_id": "f15c114e"})
    assert reading.verdict is Verdict.INVALID
    assert reading.maybe_processed


def test_a_cancelled_response_is_not_retried():
    cancelled = whole_response([], "cancelled")
    assert read(cancelled, Shape.RESPONSES).verdict is Verdict.INVALID


@table_test("nothing", ["", "null", None])
def test_an_empty_finish_reason_does_not_end_a_choice(nothing):
    """Some gateways write the word null."""
    events = [
        event({"choices": [{"index": 0, "delta": {"content": "H"}, "finish_reason": nothing}]})
    ]
    assert assembled(events)[0].verdict is Verdict.BROKEN
    assert scanned(events).verdict is Verdict.BROKEN
    events += [chunk("i"), bare_chunk("stop"), bare_chunk(nothing), DONE]
    reading, whole = assembled(events)
    assert (reading.text, whole["choices"][0]["finish_reason"]) == ("Hi", "stop")


def test_fields_beside_the_end_of_a_message_are_kept():
    *events, _, stop = message(["Hi"])
    beside = {"applied_edits": []}
    end = typed("message_delta", delta={"stop_reason": "end_turn"}, context_management=beside)
    _, whole = assembled([*events, end, stop], Shape.MESSAGES)
    assert whole["context_management"] == beside
    assert whole["type"] == "message"


def test_a_null_item_is_ignored():
    events = response(["Hi"])[:-1]
    null = typed("response.output_item.done", output_index=7, item=None)
    bare = typed("response.completed", response={"status": "completed", "output": None})
    assert assembled([*events, null, bare], Shape.RESPONSES)[0].text == "Hi"


@table_test("own", [{"id": ""}, {"id": None, "index": 0}, {"index": 0}, {}])
def test_parallel_tool_calls_without_ids_stay_separate(own):
    """Gemini: each call in one piece, with the same index and no id."""
    calls = [("f", '{"a":1}'), ("g", "{}"), ("g", '{"b":2}')]
    events = [
        chunk(tool_calls=[own | {"function": {"name": name, "arguments": text}}])
        for name, text in calls
    ]
    _, whole = assembled([*events, bare_chunk("tool_calls"), DONE])
    got = [call["function"] for call in whole["choices"][0]["message"]["tool_calls"]]
    assert [(call["name"], call["arguments"]) for call in got] == calls


def test_a_tool_call_with_a_repeated_name_is_one_call():
    pieces = ['{"a":', "{}", "}", ""]
    events = [
        chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": text}}])
        for text in pieces
    ]
    _, whole = assembled([*events, bare_chunk("tool_calls"), DONE])
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a":{}}'}


def test_a_fill_in_the_middle_endpoint_of_mistral_is_a_chat():
    assert shape_of("/v1/fim/completions") is Shape.CHAT
    assert shape_of("/v1/completions") is TEXTS


def test_a_chat_is_no_text_completion():
    """The caller would get None as `text`."""
    reading = read({"choices": [choice("stop", MESSAGE)]}, TEXTS)
    assert (reading.verdict, reading.detail) == (Verdict.BROKEN, "no text")
    events = [chunk("H"), chunk("i"), bare_chunk("stop"), DONE]
    assert assembled(events, TEXTS)[0].verdict is Verdict.BROKEN
    assert scanned(events, TEXTS).verdict is Verdict.BROKEN
    empty = [bare_chunk("content_filter"), DONE]
    assert assembled(empty, TEXTS)[0].verdict is Verdict.FILTERED


def test_an_error_of_gemini_in_a_list_is_an_error():
    payload = [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}]
    assert read(payload).verdict is Verdict.THROTTLED
    assert assembled([event(payload)])[0].verdict is Verdict.THROTTLED
    assert scanned([event(payload)]).verdict is Verdict.THROTTLED
    assert read([{"id": "x"}]).verdict is Verdict.BROKEN


def test_output_blocked_by_anthropic_is_filtered():
    message_text = "Output blocked by content filtering policy"
    payload = {"type": "error", "error": {"type": "invalid_request_error", "message": message_text}}
    assert read(payload, Shape.MESSAGES, status=400).verdict is Verdict.FILTERED
    start = message([])[0]
    events = [start, event(payload, "error")]
    assert assembled(events, Shape.MESSAGES)[0].verdict is Verdict.FILTERED


def test_a_stream_with_a_finish_reason_in_every_chunk_needs_done():
    """Gemini behind some relays: "stop" in each chunk, so a cut stream looked whole."""

    def part(text, index=0):
        delta = {"role": "assistant", "content": text}
        return event({"choices": [{"index": index, "delta": delta, "finish_reason": "stop"}]})

    parts = [part("H"), part("i"), part("!")]
    for cut in (parts, parts[:2]):
        assert assembled(cut)[0].verdict is Verdict.BROKEN
        assert scanned(cut).verdict is Verdict.BROKEN
    assert assembled([*parts, DONE])[0].text == "Hi!"
    assert scanned([*parts, DONE]).verdict is Verdict.OK
    for whole in ([part("Hi")], [chunk("H"), part("i")], [part("a"), part("b", index=1)]):
        assert assembled(whole)[0].verdict is Verdict.OK
        assert scanned(whole).verdict is Verdict.OK


@table_test("outer", [{}, {"message": "", "code": None}])
def test_a_nested_error_is_an_error(outer):
    """Groq, and gateways that pass on an error."""
    payload = {"error": outer | {"error": {"message": "x", "code": "insufficient_quota"}}}
    assert read(payload).verdict is Verdict.BILLING
    assert read(payload, status=429).verdict is Verdict.BILLING
    assert assembled([event(payload)])[0].verdict is Verdict.BILLING
