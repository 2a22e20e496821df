"""`stormbreak cost` on the command line."""

import csv
import io
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from threading import Thread

ARTICLE = ["--prices", "article-2025"]


def test_compare_reproduces_the_volume_table_of_the_article(document):
    facts = document("compare", *ARTICLE, "--models", "gpt-4.1", "--tokens", "1M,50M,500M,2B")
    rows = [
        (row["tokens"], row["provider"], row["monthly"], row["saved_a_year"], row["savings_share"])
        for row in facts["rows"]
        if row["source"] == "article-2025"
    ]
    share = Decimal("0.866667")
    assert rows == [
        (1_000_000, "openai", 60, 0, 0), (1_000_000, "holysheep", 8, 624, share),
        (50_000_000, "openai", 3000, 0, 0), (50_000_000, "holysheep", 400, 31_200, share),
        (500_000_000, "openai", 30_000, 0, 0), (500_000_000, "holysheep", 4000, 312_000, share),
        (2_000_000_000, "openai", 120_000, 0, 0), (2_000_000_000, "holysheep", 16_000, 1_248_000, share),
    ]  # fmt: skip


def test_compare_shows_the_article_prices_beside_current_list_prices(cost):
    out = cost("compare", *ARTICLE, "--tokens", "1M")
    lines = [line.split() for line in out.splitlines()]
    for model, theirs, ours, savings, latency in (
        ("gpt-4.1", "60.00", "8.00", "86.7", "<50"),
        ("claude-sonnet-4.5", "90.00", "15.00", "83.3", "<50"),
        ("gemini-2.5-flash", "15.00", "2.50", "83.3", "<30"),
        ("deepseek-v3.2", "2.80", "0.42", "85.0", "<40"),
    ):
        assert [model, "openai", "article-2025", theirs, "0.00", "0.0", "%", "-"] in lines
        row = next(line for line in lines if line[:2] == [model, "holysheep"])
        assert (row[3], row[5], row[-2:]) == (ours, savings, [latency, "ms"])
    assert sum("market" in line for line in lines) == 4
    assert "are a claim" in out
    assert "Only GPT-4.1 is OpenAI's" in out
    assert "the seller's claims; they are not measured" in out


def test_amounts_are_in_the_requested_currency(document, cost):
    vnd = ["--currency", "vnd", "--rate", "26000"]
    facts = document("compare", *ARTICLE, "--models", "gpt-4.1", "--tokens", "50M", *vnd)
    assert facts["currency"] == "VND"
    assert facts["rows"][1]["monthly"] == 400 * 26_000
    out = cost("compare", *ARTICLE, "--models", "gpt-4.1", "--tokens", "50M", *vnd)
    assert "10,400,000" in out
    assert "VND a month" in out


def test_csv_has_plain_numbers_and_escaped_text(cost, tmp_path):
    deal = tmp_path / "deal.toml"
    deal.write_text(
        "[[prices]]\nprovider = '=HYPERLINK(1)'\nmodel = '+m'\nflat = 3\nlatency = '-1'\n"
    )
    out = cost("compare", "--prices", str(deal), "--tokens", "2M", "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["provider"], row["model"], row["claimed_latency"]) == (
        "'=HYPERLINK(1)",
        "'+m",
        "'-1",
    )
    assert (row["monthly"], row["tokens"], row["currency"]) == ("6", "2000000", "USD")


def test_compare_applies_cache_batch_and_long_prompt_prices(document, tmp_path):
    deal = tmp_path / "deal.toml"
    deal.write_text(
        "[[prices]]\nprovider = 'x'\nmodel = 'm'\ninput = 2\ncached_input = 1\noutput = 10\n"
        "batch = { input = 1, output = 5 }\nlong_prompts = [{ above = 1000, input = 4, output = 20 }]\n"
    )
    argv = ["compare", "--prices", str(deal), "--tokens", "1M", "--input-share", "0.8"]

    def monthly(*more):
        return document(*argv, *more)["rows"][0]["monthly"]

    assert monthly() == Decimal("3.6")
    assert monthly("--cache-rate", "0.5") == Decimal("3.2")
    assert monthly("--service-tier", "batch") == Decimal("1.8")
    assert monthly("--prompt-tokens", "2k") == Decimal("7.2")


def test_prices_lists_long_prompts_in_the_requested_currency(document, tmp_path):
    deal = tmp_path / "deal.toml"
    long = "long_prompts = [{ above = 1000, input = 4 }]"
    deal.write_text(f"[[prices]]\nprovider = 'x'\nmodel = 'm'\ninput = 2\noutput = 8\n{long}\n")
    argv = ["prices", "--prices", str(deal), "--currency", "EUR", "--rate", "0.5"]
    assert [
        (row["prompts_above"], row["input"], row["output"], row["currency"])
        for row in document(*argv)["prices"]
    ] == [(None, 1, 4, "EUR"), (1000, 2, 4, "EUR")]


def test_a_price_file_given_twice_counts_once(document):
    once = document("prices", *ARTICLE)
    assert document("prices", *ARTICLE, *ARTICLE) == once


def test_compare_prints_its_assumptions(cost):
    argv = [
        "compare",
        "--models",
        "claude-sonnet-4-5",
        "--providers",
        "anthropic",
        "--tokens",
        "1M,2M,1M",
    ]
    out = cost(*argv)
    assert "1M, 2M tokens a month: 70.0 % of them input, none of it cached.\n" in out
    assert "service" not in out
    out = cost(
        *argv,
        "--input-share",
        "0.4",
        "--cache-rate",
        "0.25",
        "--prompt-tokens",
        "300k",
        "--service-tier",
        "batch",
    )
    line = "40.0 % of them input, 25.0 % of that from a cache, in prompts of 300k, at batch prices."
    assert line in out
    assert "service" in out


def test_models_of_one_provider_are_compared_with_the_first(document):
    argv = ["compare", *ARTICLE, "--tokens", "1M", "--providers", "holysheep"]
    rows = document(*argv, "--models", "gpt-4.1,deepseek-v3.2")["rows"]
    assert [row["savings_share"] for row in rows] == [0, Decimal("0.9475")]


def test_named_models_are_compared_with_the_first(document):
    argv = ["compare", *ARTICLE, "--tokens", "1M", "--models", "gpt-4.1,deepseek-v3.2"]
    rows = document(*argv)["rows"]
    first, *others = rows
    assert (first["model"], first["savings_share"]) == ("gpt-4.1", 0)
    for row in others:
        saved = first["monthly"] - row["monthly"]
        assert row["saved_a_year"] == 12 * saved != 0
    assert {row["model"] for row in rows} == {"gpt-4.1", "deepseek-v3.2"}


def test_a_model_that_a_provider_lacks_has_a_note_and_no_price(document, cost):
    argv = ["compare", "--tokens", "1M", "--models", "gpt-4.1", "--providers", "openai,anthropic"]
    _, row = document(*argv)["rows"]
    assert (row["monthly"], row["saved_a_year"]) == (None, None)
    assert row["note"] == "no price is known for 'gpt-4.1' at anthropic"
    several = cost(*argv, "--tokens", "1M,2M")
    assert several.count("No price is known for 'gpt-4.1' at anthropic.\n") == 1


def test_prices_lists_by_model_by_provider_and_by_file(document, cost):
    rows = document("prices", "gpt-4.1", *ARTICLE)["prices"]
    assert [(row["provider"], row["source"], row["claim"]) for row in rows][:2] == [
        ("openai", "article-2025", "yes"),
        ("holysheep", "article-2025", "yes"),
    ]
    assert {row["service"] for row in rows if row["source"] == "market"} >= {"standard", "batch"}
    assert (rows[1]["input"], rows[1]["output"], rows[1]["cached_input"]) == (8, 8, None)
    listed = document("prices", "--providers", "anthropic")["prices"]
    assert {row["provider"] for row in listed} == {"anthropic"}
    assert any(row["prompts_above"] for row in listed)
    (opus,) = [
        row for row in listed if row["model"] == "claude-opus-4-5" and row["service"] == "standard"
    ]
    assert (opus["input"], opus["cache_write"], opus["cache_write_1h"]) == (5, Decimal("6.25"), 10)
    assert "USD input" in cost("prices", *ARTICLE)


def lines(tmp_path, *bodies):
    path = tmp_path / "out.jsonl"
    rows = [
        {"custom_id": f"{number}", "response": {"status_code": 200, "body": body}, "error": None}
        for number, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def body(model, text="hello", **usage):
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"model": model, "choices": [choice], **({"usage": usage} if usage else {})}


def test_compare_prices_the_usage_of_a_batch_at_other_providers(document, cost, tmp_path):
    path = lines(
        tmp_path,
        body("gpt-4.1-2025-04-14", prompt_tokens=1000, completion_tokens=100),
        body("gpt-4.1-2025-04-14"),
        body("storm-1", prompt_tokens=10, completion_tokens=10),
    )
    argv = ["compare", "--from", path, "--scale", "1000", *ARTICLE]
    rows = document(*argv)["rows"]
    assert [(row["used"], row["provider"], row["estimated_requests"]) for row in rows] == [
        ("gpt-4.1-2025-04-14", "openai", 1),
        ("gpt-4.1-2025-04-14", "holysheep", 1),
        ("gpt-4.1-2025-04-14", "openai", 1),
        ("storm-1", "", 0),
    ]
    assert rows[1]["monthly"] == Decimal("16.816")  # 2,102 tokens, a thousand times, at 8
    assert rows[3]["monthly"] is None
    out = cost(*argv)
    assert "1 did not report their usage: estimated" in out
    assert "o known provider sells 'storm-1'; did you mean" in out
    assert "?." not in out
    assert "Together: 126.12 USD a month" in out


def test_compare_prices_the_usage_with_other_models_and_services(document, tmp_path):
    answers = lines(tmp_path, body("gpt-4.1", prompt_tokens=10**5, completion_tokens=10**5))
    argv = ["compare", "--from", answers, "--scale", "10", "--providers", "openai,anthropic"]
    rows = document(*argv, "--models", "gpt-4.1-mini,claude-sonnet-4-5")["rows"]
    assert [(row["model"], row["provider"], row["monthly"]) for row in rows] == [
        ("gpt-4.1", "openai", 10),
        ("gpt-4.1-mini", "openai", 2),
        ("claude-sonnet-4-5", "anthropic", 18),
    ]  # and no row for a model that a provider lacks
    assert {row["used"] for row in rows} == {"gpt-4.1"}
    (row,) = document(*argv, "--service-tier", "batch")["rows"]
    assert (row["service"], row["monthly"]) == ("batch", 5)


def test_the_mean_prompt_length_selects_the_long_prompt_price(document, tmp_path):
    long = body("claude-sonnet-4-5", prompt_tokens=10**6, completion_tokens=10**6)
    short = body("claude-sonnet-4-5", prompt_tokens=10**5, completion_tokens=10**5)
    argv = ["compare", "--providers", "anthropic", "--from"]
    (row,) = document(*argv, lines(tmp_path, long))["rows"]
    assert row["monthly"] == Decimal("28.5")
    (row,) = document(*argv, lines(tmp_path, short))["rows"]
    assert row["monthly"] == Decimal("1.8")


def test_compare_prints_the_period_and_gaps_of_a_usage_export(cost, tmp_path):
    used = {
        "object": "organization.usage.completions.result",
        "model": "gpt-4.1",
        "input_tokens": 9,
    }
    bucket = {"start_time": 1730419200, "end_time": 1730505600, "results": [used]}
    path = tmp_path / "usage.json"
    path.write_text(json.dumps({"data": [bucket], "has_more": True}))
    out = cost("compare", "--from", str(path))
    assert "Counted from 2024-11-01 to 2024-11-02." in out
    assert "This export has more pages (has_more) that are not in the file." in out


def test_compare_separates_service_tiers(cost, tmp_path):
    usage = {"prompt_tokens": 1000, "completion_tokens": 0}
    answer = body("gpt-4.1", **usage)
    out = cost(
        "compare",
        "--from",
        lines(tmp_path, answer, {**answer, "service_tier": "flex"}),
        "--providers",
        "openai",
    )
    assert "service" in out.splitlines()[0]
    assert "gpt-4.1 (flex): 1 requests" in out
    assert "No flex prices are known for openai/gpt-4.1." in out


def test_control_characters_of_model_names_are_escaped(cost, tmp_path):
    path = lines(
        tmp_path,
        body("gpt-4.1", prompt_tokens=1, completion_tokens=1),
        body("\x1b[31m\u202eevil [bold]", prompt_tokens=1, completion_tokens=1),
    )
    out = cost("compare", "--from", path)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]" in out


def test_wide_characters_in_names_are_not_wrapped(cost, tmp_path):
    usage = {"prompt_tokens": 10, "completion_tokens": 0}
    answers = lines(tmp_path, body("gpt-4.1", **usage), body("\u6a21\u578b\u6a21\u578b", **usage))
    out = cost("compare", "--from", answers, "--scale", "10000")
    assert any(line.startswith("\u6a21\u578b\u6a21\u578b  ") for line in out.splitlines())
    assert "A month is assumed to be 10,000 times the traffic of the file (--scale)." in out


def test_compare_reads_a_pipe_once(document, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    answers = lines(tmp_path, *[body("gpt-4.1", prompt_tokens=10**6, completion_tokens=0)] * 3)
    feed = Thread(target=lambda: path.write_bytes(Path(answers).read_bytes()))
    feed.start()
    row = document("compare", "--from", str(path), "--providers", "openai")["rows"][0]
    feed.join()
    assert row["tokens"] == 3_000_000


def test_a_usage_export_is_priced_by_its_service(document, tmp_path):
    path = tmp_path / "usage.csv"
    path.write_text("model,batch,input_tokens,output_tokens\ngpt-4.1,TRUE,1000000.0,1000000.0\n")
    row = document("compare", "--from", str(path), "--providers", "openai")["rows"][0]
    assert (row["service"], row["monthly"]) == ("batch", 5)


def test_price_files_alone_load_no_price_list():
    code = (
        "import sys; from stormbreak.cli.main import main;"
        " main(['cost', 'prices', '--prices', 'article-2025', '--providers', 'holysheep@article-2025']);"
        " print('genai_prices' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("\nFalse\n")
