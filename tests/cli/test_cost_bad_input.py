"""Bad input of `stormbreak cost` gives one clear line and code 2, and never shows a key."""

from stormbreak.cli.main import main

CANARY = "sk-proj-c4n4ryAbCdEf1234567890"
COMPARE = "compare --models gpt-4.1 --providers openai --tokens 1M"
ROI = "roi --prices article-2025 --current openai/gpt-4.1 --candidate holysheep/gpt-4.1"


def refused(capsys, argv):
    assert main(["cost", *argv.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stormbreak: ")
    assert err.count("\n") == 1
    return err.removeprefix("stormbreak: ")


def test_bad_input_is_an_error_of_one_line(capsys):
    for argv, message in (
        ("compare", "give --tokens or --from"),
        ("compare --tokens 1M --from x", "give --tokens or --from"),
        ("compare --tokens 1M", "give --models, or a price file with --prices"),
        (
            "compare --tokens 1M --models gtp-4.1",
            "no known provider sells 'gtp-4.1'; did you mean gpt",
        ),
        (
            "compare --tokens 1M --models gpt-4.1 --providers opanai",
            "no prices are known for 'opanai'",
        ),
        (
            "compare --tokens 1M --models gpt-4.1,gtp --providers openai",
            "no price is known for 'gtp'",
        ),
        (f"{COMPARE} --providers @", "--providers must be PROVIDER or PROVIDER@SOURCE, got '@'"),
        ("prices --providers a@", "--providers must be PROVIDER or PROVIDER@SOURCE, got 'a@'"),
        (f"{COMPARE} --scale 3", "--scale has no effect without --from"),
        *(
            (
                f"compare --from x --{unused}",
                f"--{unused.split()[0]} has no effect with --from: the file has it",
            )
            for unused in ("input-share 0.7", "cache-rate 0", "prompt-tokens 5")
        ),
        (f"{ROI} --tokens 1M --scenario incident", "--scenario has no effect without --storm"),
        *(
            (
                f"roi --storm x --{unused}",
                f"--{unused.split()[0]} has no effect without --current, --candidate and --tokens",
            )
            for unused in (
                "migration-hours 1",
                "hourly-cost 1",
                "input-share 0.5",
                "cache-rate 0.5",
                "prompt-tokens 9",
                "service-tier batch",
                "prices x",
            )
        ),
        (
            "compare --tokens -5 --models m",
            "Invalid value for '--tokens': must be a number of tokens",
        ),
        *(
            (
                f"compare --models m --tokens {given}",
                "Invalid value for '--tokens': must be a number",
            )
            for given in (
                "0",
                "nan",
                "inf",
                "1e9",
                "1.5",
                "50T",
                "1M,,2M",
                "999999B",
                "٣",
                "1_000",
                "M",
            )
        ),
        *(
            (
                f"{COMPARE} --input-share {given}",
                "Invalid value for '--input-share': must be a share",
            )
            for given in ("1.1", "-0.1", "nan", "inf", "70%", "1e-9", "x" * 200)
        ),
        (
            f"{COMPARE} --cache-rate 2",
            "Invalid value for '--cache-rate': must be a share between 0",
        ),
        (
            f"{COMPARE} --service-tier gold",
            "Invalid value for '--service-tier': 'gold' is not one of",
        ),
        (f"{COMPARE} --prices nope", "no price file is named 'nope'; built-in price files: art"),
        (f"{COMPARE} --currency VND", "--currency VND needs --rate, its units per US dollar"),
        (f"{COMPARE} --currency VDN --rate 2", "--currency must be a code of ISO 4217, got 'VDN'"),
        (f"{COMPARE} --currency VND --rate nan", "--rate must be a number, got 'nan'"),
        (
            f"{COMPARE} --currency VND --rate 0",
            "--rate must be between 0.000001 and 10,000,000, got 0",
        ),
        (f"{COMPARE} --rate 2", "--rate must be 1 for USD, got 2"),
        (f"{COMPARE} --json --csv", "--json and --csv: give one of them, not both"),
        (f"{COMPARE} --report x.pdf", "--report must end in .html or .png, got 'x.pdf'"),
        ("compare --from nowhere.jsonl", "nowhere.jsonl: cannot be read: No such file"),
        (
            "compare --from x --scale 0",
            "Invalid value for '--scale': must be a number between 0.0001",
        ),
        ("roi", "give --current, --candidate and --tokens, or --storm alone"),
        (ROI, "give --current, --candidate and --tokens, or --storm alone"),
        (
            f"{ROI} --tokens 1M --migration-hours -4",
            "Invalid value for '--migration-hours': must be a number of hours",
        ),
        (
            f"{ROI} --tokens 1M --hourly-cost nan",
            "Invalid value for '--hourly-cost': must be an amount between",
        ),
        (
            f"{ROI} --tokens 1M --hourly-cost 1000000001",
            "Invalid value for '--hourly-cost': must be an amount",
        ),
        (f"{ROI} --tokens 1M,2M", "Invalid value for '--tokens': must be a number of tokens"),
        (
            "roi --current gpt-4.1 --candidate a/b --tokens 1M",
            "--current must be PROVIDER/MODEL, got",
        ),
        ("roi --current openai/o3 --candidate a/b --tokens 1M", "no prices are known for 'a'"),
        ("roi --storm nowhere.json", "nowhere.json: cannot be read: No such file"),
        (
            "roi --storm x --downtime-minutes 0",
            "Invalid value for '--downtime-minutes': must be a num",
        ),
        ("prices", "give a MODEL, --providers or --prices FILE"),
        ("prices gtp-4.1", "no known provider sells 'gtp-4.1'; did you mean gpt-4.1"),
        ("prices gpt-4.1 --providers anthropic", "no price is known for 'gpt-4.1' at anthropic"),
        ("prices --providers nobody", "no prices are known for 'nobody'"),
        (
            "report out.jsonl",
            "out.jsonl.run: not found; out.jsonl is not the output of a batch run",
        ),
    ):
        assert refused(capsys, argv).startswith(message)


def test_an_error_never_repeats_an_argument_that_is_a_key(capsys):
    for argv in (
        "compare --tokens {}",
        "compare --tokens 1M --models {}",
        "compare --tokens 1M --models gpt-4.1 --providers {}",
        "compare --tokens 1M --models gpt-4.1 --providers openai@{}",
        "compare --from {}",
        f"{COMPARE} --prices {{}}",
        f"{COMPARE} --currency {{}}",
        f"{COMPARE} --currency VND --rate {{}}",
        f"{COMPARE} --input-share {{}}",
        f"{COMPARE} --report {{}}",
        "roi --storm {}",
        "roi --current {} --candidate {} --tokens 1M",
        "roi --current openai/{} --candidate {} --tokens 1M",
        "prices {}",
    ):
        err = refused(capsys, argv.format(CANARY, CANARY))
        assert "c4n4ry" not in err


def test_a_misspelt_model_is_an_error_with_a_suggestion(tmp_path, capsys):
    path = tmp_path / "usage.csv"
    path.write_text("model,input_tokens,output_tokens\ngpt-4.1,1,1\n")
    err = refused(capsys, f"compare --from {path} --models gtp-4.1")
    assert err.startswith("no known provider sells 'gtp-4.1'; did you mean gpt-4.1")


def test_roi_rejects_a_storm_without_a_trigger(tmp_path, capsys):
    path = tmp_path / "storm.json"
    path.write_text(
        '{"scenario": "calm-burst", "policy": "p", "runs": [{"policy": "p", "goodput": 1}]}'
    )
    assert "calm-burst has no trigger" in refused(capsys, f"roi --storm {path}")


def test_roi_rejects_a_storm_that_ended_before_its_trigger(tmp_path, capsys):
    path = tmp_path / "storm.json"
    times = '"duration": 30, "trigger_at": 30, "trigger_until": 40'
    path.write_text(
        f'{{"scenario": "s", "policy": "p", {times}, "runs": [{{"policy": "p", "goodput": 1}}]}}'
    )
    err = refused(capsys, f"roi --storm {path}")
    assert err == f"{path}: trigger_at must be before the end, 30, got 30\n"


def test_roi_needs_the_scenario_of_a_storm_with_a_custom_one(tmp_path, capsys):
    path = tmp_path / "storm.json"
    path.write_text('{"scenario": "mine", "policy": "p", "runs": [{"policy": "p", "goodput": 1}]}')
    assert "--scenario is needed: no scenario or file" in refused(capsys, f"roi --storm {path}")


def test_an_unknown_key_in_a_price_file_has_a_suggestion(tmp_path, capsys):
    path = tmp_path / "deal.toml"
    path.write_text("[[prices]]\nprovider = 'x'\nmodel = 'm'\ninptu = 2.5\n")
    err = refused(capsys, f"compare --tokens 1M --prices {path}")
    assert err.startswith(f"{path}: unknown key prices[0].inptu = 2.5; did you mean input?")
