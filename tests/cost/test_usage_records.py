"""Traffic read from batch output and from usage exports."""

import json
from decimal import Decimal

import pytest
from table_test import table_test

from stormbreak.cost import usage_file
from stormbreak.cost.token_prices import Service, Tokens
from stormbreak.cost.usage_file import read_traffic
from stormbreak.cost.usage_records import UNNAMED, Kind
from stormbreak.errors import ConfigurationError

HEAD = (
    "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,"
    "batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens\n"
)  # as OpenAI's dashboard exports it


def line(number, body, error=None):
    response = {"status_code": 200, "request_id": None, "body": body}
    return json.dumps({"id": "x", "custom_id": f"{number}", "response": response, "error": error})


def chat(model="m", text="hello", usage=None, **more):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    body = {"object": "chat.completion", "model": model, "choices": [choice], **more}
    return body if usage is None else {**body, "usage": usage}


def used(entry, output, cached=0):
    details = {"cached_tokens": cached}
    return {"prompt_tokens": entry, "completion_tokens": output, "prompt_tokens_details": details}


@pytest.fixture
def read(tmp_path):
    def call(text):
        path = tmp_path / "file"
        path.write_text(text)
        return read_traffic(path)

    return call


def test_answers_are_summed_by_model_and_service(read):
    traffic = read(
        "\n".join(
            [
                line(1, chat("a", usage=used(100, 10, 40))),
                line(2, chat("b", usage={"input_tokens": 7, "output_tokens": 3})),
                line(3, chat("a", usage=used(200, 20))),
                line(4, chat("a", usage=used(1, 1), service_tier="flex")),
                line(5, chat("a", usage=used(1, 1)), {"verdict": "broken"}),
                json.dumps({"custom_id": "6", "response": None, "error": {"verdict": "timeout"}}),
            ]
        )
        + "\n"
    )
    assert {use.kind: (use.tokens, use.requests, use.estimated) for use in traffic.uses} == {
        Kind("a"): (Tokens(300, 30, 40), 2, 0),
        Kind("b"): (Tokens(7, 3, 0), 1, 0),
        Kind("a", Service.FLEX): (Tokens(1, 1, 0), 1, 0),
    }


def test_an_answer_without_usage_is_estimated_and_marked(read):
    (use,) = read(
        "\n".join([line(1, chat(usage=used(100, 10))), line(2, chat(text="x" * 41))])
    ).uses
    assert use.tokens == Tokens(200, 10 + 11, 0)  # the mean prompt; a token for four bytes
    assert (use.requests, use.estimated) == (2, 1)


def test_a_model_without_counts_gets_the_mean_prompt_of_all_models(read):
    lines = [line(1, chat("a", usage=used(100, 10))), line(2, chat("b", text="four"))]
    _, other = read("\n".join(lines)).uses
    assert (other.kind.model, other.tokens, other.estimated) == ("b", Tokens(100, 1, 0), 1)


def test_usage_without_a_prompt_is_ignored_and_cached_input_is_capped(read):
    lines = [line(1, chat(usage=used(100, 10, 900))), line(2, chat(usage={"completion_tokens": 7}))]
    (use,) = read("\n".join(lines)).uses
    assert (use.tokens, use.estimated) == (Tokens(200, 10 + 2, 100), 1)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_status_in_batch_output_is_no_answer(read, status):
    refusal = json.loads(line(2, {"error": {"code": "x"}}))
    refusal["response"]["status_code"] = status
    (use,) = read("\n".join([line(1, chat(usage=used(1, 1))), json.dumps(refusal)])).uses
    assert (use.kind.model, use.requests) == ("m", 1)


@pytest.mark.parametrize("status", [200, 399, None, "400"])
def test_a_response_without_an_error_status_is_an_answer(read, status):
    answer = json.loads(line(1, chat(usage=used(1, 1))))
    answer["response"]["status_code"] = status
    assert read(json.dumps(answer)).uses[0].requests == 1


def test_byte_order_marks_are_ignored(read):
    mark = "\ufeff"
    answers = f"{mark}{line(1, chat(usage=used(1, 1)))}\n"
    assert read(answers * 2).uses[0].requests == 2  # two files, concatenated
    assert read(mark + json.dumps(page([result()]))).uses[0].requests == 5
    assert read(f"{mark}model,input_tokens,output_tokens\nm,1,1\n").uses[0].tokens.input == 1


def test_a_body_that_is_no_object_is_estimated(read):
    _, other = read("\n".join([line(1, chat(usage=used(8, 8))), line(2, "<html>")])).uses
    assert (other.kind.model, other.estimated) == (UNNAMED, 1)


def test_traffic_without_any_usage_is_an_error(read):
    with pytest.raises(ConfigurationError, match="file: no answer reports its usage"):
        read(line(1, chat()))


def test_only_a_torn_last_line_is_ignored(read):
    good = line(1, chat(usage=used(1, 1)))
    assert read(f"{good}\n{good[:50]}").uses[0].requests == 1
    with pytest.raises(ConfigurationError, match="line 2 is not a line of batch output"):
        read(f"{good}\n{good[:50]}\n{good}\n")


def page(results, **more):
    bucket = {
        "object": "bucket",
        "start_time": 1730419200,
        "end_time": 1730505600,
        "results": results,
    }
    return {"object": "page", "data": [bucket], "has_more": False, "next_page": None, **more}


def result(**fields):
    return {
        "object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
        "input_cached_tokens": 800, "num_model_requests": 5, "project_id": None, "user_id": None,
        "api_key_id": None, "model": "gpt-4o", "batch": None, **fields,
    }  # fmt: skip


def test_a_page_of_the_usage_api_is_read(read):
    traffic = read(
        json.dumps(page([result(), result(batch=True), result(service_tier="priority")]))
    )
    assert {use.kind: (use.tokens, use.requests) for use in traffic.uses} == {
        Kind("gpt-4o"): (Tokens(1000, 500, 800), 5),
        Kind("gpt-4o", Service.BATCH): (Tokens(1000, 500, 800), 5),
        Kind("gpt-4o", Service.PRIORITY): (Tokens(1000, 500, 800), 5),
    }
    assert (str(traffic.since), str(traffic.until)) == ("2024-11-01", "2024-11-02")
    assert not traffic.notes


def test_odd_values_in_a_page_are_corrected(read):
    odd = [result(input_cached_tokens=5000, num_model_requests=0), result(input_tokens=0)]
    absurd = page(odd)
    absurd["data"][0]["start_time"] = -(10**15)
    traffic = read(json.dumps(absurd))
    assert [(use.tokens, use.requests) for use in traffic.uses] == [(Tokens(1000, 1000, 1000), 6)]
    assert (traffic.since, str(traffic.until)) == (None, "2024-11-02")


def test_several_pages_are_summed_and_missing_pages_noted(read):
    traffic = read(json.dumps([page([result()]), page([result()], has_more=True)], indent=1))
    assert traffic.uses[0].tokens.input == 2000
    assert "more pages" in traffic.notes[0]


@table_test(
    ("results", "message"),
    [
        (
            [result(model=None)],
            r"data\[0\].results\[0\]: models are not separated: export with group_by",
        ),
        (
            [result(), result(input_tokens=-1)],
            r"results\[1\]: input_tokens must be a count, got -1",
        ),
        ([result(output_tokens=1.5)], "output_tokens must be a count, got 1.5"),
        ([result(output_tokens="many")], "output_tokens must be a count, got many"),
        ([result(input_tokens=10**16)], "input_tokens must be a count, got 1000"),
        (
            [result(object="organization.usage.images.result")],
            "object must be organization.usage.comp",
        ),
    ],
)
def test_an_invalid_page_is_rejected(read, results, message):
    with pytest.raises(ConfigurationError, match=message):
        read(json.dumps(page(results)))


def test_the_csv_export_of_the_dashboard_is_read(read):
    empty = "1759708800,1759795200,2025-10-06T00:00:00+00:00,2025-10-07T00:00:00+00:00,,,,,,,,,,,\n"
    rows = (
        "1759622400,1759708800,a,b,proj_x,10.0,user-x,key_x,gpt-4o-2024-08-06,FALSE,default,59200.0,10646.0,5760.0,53440.0\n"
        + empty
        + "1759795200,1759881600,a,b,proj_x,8.0,user-x,key_x,gpt-5-2025-08-07,TRUE,default,46264.0,60000.0,8192.0,38072.0\n"
    )
    traffic = read(HEAD + rows)
    assert {use.kind: (use.tokens, use.requests) for use in traffic.uses} == {
        Kind("gpt-4o-2024-08-06"): (Tokens(59_200, 10_646, 5_760), 10),
        Kind("gpt-5-2025-08-07", Service.BATCH): (Tokens(46_264, 60_000, 8_192), 8),
    }
    assert (str(traffic.since), str(traffic.until)) == ("2025-10-05", "2025-10-08")


@table_test(
    ("text", "message"),
    [
        ("", "has no answers and no usage"),
        ("\n\n", "has no answers and no usage"),
        ("model", "no column input_tokens, output_tokens"),
        ("model,input_tokens\nm,1\n", "no column output_tokens: not OpenAI's export of usage"),
        (HEAD, "has no answers and no usage"),
        (
            "model,input_tokens,output_tokens\nm,nan,1\n",
            "line 2: input_tokens must be a count, got nan",
        ),
        ("model,input_tokens,output_tokens\n,5,1\n", "line 2: models are not separated"),
        ("{}", "not the output of a batch, a page"),
        ("[1]", "not the output of a batch, a page"),
        ("[" * 9000, "not the output of a batch, a page"),
    ],
)
def test_a_file_of_another_format_is_rejected(read, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read(text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_accepts_every_line_ending(tmp_path, end):
    path = tmp_path / "file"
    path.write_bytes(f"model,input_tokens,output_tokens{end}m,3,4{end}".encode())
    assert read_traffic(path).uses[0].tokens == Tokens(3, 4, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("m,1,000,5", "line 2 has more or fewer cells than the header"),
        ("m,1", "line 2 has more or fewer cells than the header"),
        ("m,1,1\nm,-1,1", "line 3: input_tokens must be a count, got -1"),
        ("y" * 200_000, "line 2: broken CSV: field larger than field limit"),
    ],
)
def test_an_invalid_csv_row_is_an_error_with_its_line(read, row, message):
    with pytest.raises(ConfigurationError, match=message):
        read(f"model,input_tokens,output_tokens\n{row}\n")


def test_an_invalid_time_is_an_error_with_its_line(read):
    with pytest.raises(ConfigurationError, match="line 2: end_time must be a count, got soon"):
        read("end_time,model,input_tokens,output_tokens\nsoon,m,1,1\n")


def test_a_huge_header_is_an_error(read):
    with pytest.raises(ConfigurationError, match="file: line 1: broken CSV"):
        read("x" * 200_000)


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_traffic(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_traffic(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8 text"):
        read_traffic(tmp_path / "binary")


def test_the_size_of_an_export_is_limited_and_that_of_output_is_not(read, monkeypatch):
    monkeypatch.setattr(usage_file, "LARGEST", 600)
    answers = "".join(f"{line(number, chat(usage=used(1, 1)))}\n" for number in range(9))
    assert len(answers) > 600
    assert read(answers).uses[0].requests == 9
    head = "model,input_tokens,output_tokens\n"
    assert read(head + "m,1,1\n" * 94).uses[0].requests == 94  # 597 bytes
    with pytest.raises(ConfigurationError, match="too large for an export of usage: more than 600"):
        read(head + "m,1,1\n" * 95)


def test_token_counts_are_integers(read):
    (use,) = read(line(1, chat(usage=used(3, 2)))).uses
    assert all(isinstance(amount, int) for amount in use.tokens)
    assert Decimal(use.tokens.input) == 3


def test_cache_writes_are_read_from_every_source(read):
    message = {"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 4}
    exported = page([result(input_cache_write_tokens=150), result(input_cache_write_tokens=900)])
    head = HEAD.replace("input_cached_tokens", "input_cached_tokens,input_cache_write_tokens")
    row = "1730419200,1730505600,,,,5,,,gpt-6-sol,,,1000,500,800,50,150\n"

    def tokens(text):
        return [use.tokens for use in read(text).uses]

    assert tokens(line(1, {"content": [], "usage": message})) == [Tokens(9, 1, 0, 4)]
    assert tokens(json.dumps(exported)) == [Tokens(2000, 1000, 1600, 350)]
    assert tokens(head + row) == [Tokens(1000, 500, 800, 50)]
