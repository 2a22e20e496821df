"""Each error in a policy file is one line that names the file, the key and the value."""

import os

import pytest
from table_test import table_test

from stormbreak.config import load_policy, resolve_policy
from stormbreak.errors import ConfigurationError

BACKOFFS = "constant, linear, exponential, proportional_jitter, full_jitter, equal_jitter, decorrelated_jitter"
TRIPS = "dead_target, consecutive, failure_rate, slow_rate"
TABLE = {
    # unknown keys
    "deadlin = 3": "unknown key deadlin = 3; did you mean deadline?",
    'prest = "batch"': "unknown key prest = 'batch'; did you mean preset?",
    "[retry.backoff]\nintial_delay = 3": "unknown key retry.backoff.intial_delay = 3; did you mean initial_delay?",
    "[retry]\nxyzzy = 3": "unknown key retry.xyzzy = 3; known: max_attempts, backoff, min_time_left, max_wait, retry_after_jitter, longer_backoff_on",
    "[retry.backoff]\nkind = 'linear'\nlinear = 3": "unknown key retry.backoff.linear = 3; known: kind, initial_delay, factor, max_delay, jitter, min_delay",
    "[retry.backoff]\nkind = 'constant'\nfactor = 3": "retry.backoff.factor means nothing for the kind constant, got 3",
    "[targets.main]\nmodel = 'm'\n[pools.a]": "expected only a policy, without targets and pools",
    "[limit]\nfixed = 3": "unknown key limit.fixed = 3; known: kind, max_in_flight, headroom_factor, headroom",
    "[limit]\nkind = 'fixed'\nheadroom = 3": "unknown key limit.headroom = 3; known: kind, max_in_flight",
    "[retry.preset]\nx = 3": "unknown key retry.preset = a table; known: max_attempts, backoff, min_time_left, max_wait, retry_after_jitter, longer_backoff_on",
    # types
    "[retry]\nmax_attempts = '5'": "retry.max_attempts must be a whole number, got '5'",
    "[retry]\nmax_attempts = true": "retry.max_attempts must be a whole number, got true",
    "[retry]\nmax_attempts = 2.0": "retry.max_attempts must be a whole number, got 2.0",
    "[retry.backoff]\ninitial_delay = '1'": "retry.backoff.initial_delay must be a number, got '1'",
    "[retry.backoff]\ninitial_delay = 'none'": "retry.backoff.initial_delay must be a number, got 'none'",
    "deadline = true": 'deadline must be a number or "none", got true',
    "deadline = 2026-01-31": 'deadline must be a number or "none", got 2026-01-31',
    "fail_fast = 1": "fail_fast must be true or false, got 1",
    "fail_fast = 'none'": "fail_fast must be true or false, got 'none'",
    "failures = 'throttled'": "failures must be a list, got 'throttled'",
    "[retry]\nlonger_backoff_on = [504, '5']": "retry.longer_backoff_on[1] must be a whole number, got '5'",
    "retry = 3": "retry must be a table, got 3",
    "retry = 'none'": "retry must be a table, got 'none'",
    "[[retry]]\nmax_attempts = 3": "retry must be a table, got a list",
    "breaker = false": 'breaker must be a table or "none", got false',
    "[retry]\nbackoff = 'linear'": "retry.backoff must be a table with kind = \"linear\", got 'linear'",
    "[deadline]\nx = 1": 'deadline must be a number or "none", got a table',
    # numbers
    "[retry.backoff]\ninitial_delay = -3": "retry.backoff.initial_delay must be positive, got -3",
    "[retry.backoff]\ninitial_delay = 9\nmax_delay = 1": "retry.backoff.max_delay must not be below initial_delay, got 1",
    "[breaker.trip]\nkind = 'failure_rate'\nratio = 1.5": "breaker.trip.ratio must be within (0, 1], got 1.5",
    "[breaker.trip]\nratio = 0.5": "unknown key breaker.trip.ratio = 0.5; known: kind",
    "[retry]\nmax_attempts = 0": "retry.max_attempts must be at least 1, got 0",
    "deadline = -1": "deadline must be positive, got -1",
    "deadline = nan": 'deadline must be a finite number or "none", got nan',
    "deadline = -inf": 'deadline must be a finite number or "none", got -inf',
    "deadline = 1e999": 'deadline must be a finite number or "none", got inf',
    "deadline = 1"
    + 400 * "0": f'deadline must be a number below 1e308 or "none", got 1{39 * "0"}...',
    "deadline = " + 5000 * "9": "a number is too long",
    "[spend]\nmax_usd = -3": "spend.max_usd must be positive, got -3",
    "[spend]\nmax_usd = '5 USD'": "spend.max_usd must be a number or \"none\", got '5 USD'",
    "[spend]\nmax_usd = nan": 'spend.max_usd must be a finite number or "none", got nan',
    "[spend]\nperiod = 0": "spend.period must be positive, got 0",
    "[spend]\nperiod = 'week'": "spend.period must be one of hour, day, month or \"none\", got 'week'",
    "[spend]\nperiod = true": 'spend.period must be a number or "none", got true',
    "[spend]\nmax_output_tokens = 0": "spend.max_output_tokens must be at least 1, got 0",
    "[spend]\nmax_output_tokens = 1.5": 'spend.max_output_tokens must be a whole number or "none", got 1.5',
    "[spend]\nlimit = 5": "unknown key spend.limit = 5; known: max_usd, period, max_output_tokens",
    # words
    "[retry.backoff]\nkind = 'x'": f"retry.backoff.kind must be one of {BACKOFFS}, got 'x'",
    "[retry.backoff]\nkind = 3": f"retry.backoff.kind must be one of {BACKOFFS}, got 3",
    "[breaker.trip]\nkind = ''": f"breaker.trip.kind must be one of {TRIPS}, any, got ''",
    "[breaker]\nmode = 'off'": "breaker.mode must be one of normal, metrics_only, disabled, forced_open, got 'off'",
    "[breaker]\nopen_duration_factor = 0.5": "breaker.open_duration_factor must be at least 1, got 0.5",
    "[breaker]\nmax_half_open_duration = 0": "breaker.max_half_open_duration must be positive, got 0",
    "[breaker.trip]\nkind = 'slow_rate'\nslow_call_threshold = 0": "breaker.trip.slow_call_threshold must be positive, got 0",
    "[breaker.trip]\nkind = 'slow_rate'\nwindow_calls = 5": "breaker.trip.window_calls must not be below min_calls, got 5",
    "[breaker.trip]\nkind = 'any'\nrules = []": "breaker.trip.rules must name at least one rule, got none",
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nratio = 1": f"breaker.trip.rules[0] lacks kind: one of {TRIPS}",
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nkind = 'consecutive'\nfailure_threshold = 0": "breaker.trip.rules[0].failure_threshold must be at least 1, got 0",
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nkind = 'consecutive'\nratio = 1": "unknown key breaker.trip.rules[0].ratio = 1; known: kind, failure_threshold",
    "failures = ['reset']\nignored = ['reset']": "ignored must name none of failures, got reset",
    "failures = ['timeout', 'cancelled']": "failures must name only verdicts that can count, got cancelled",
    "failures = ['ok', 'rejected']": "failures must name only verdicts that can count, got ok, rejected",
    "[shadow]\nfailures = ['cancelled']": "shadow.failures must name only verdicts that can count, got cancelled",
    "ignored = ['ok']": "ignored must name only verdicts that can count, got ok",
    "[limit]\nkind = 'vegas'": "limit.kind must be one of fixed, aimd, automatic, got 'vegas'",
    "preset = 'bach'": "preset must be one of interactive, batch, article, off, got 'bach'",
    "preset = ['batch']": "preset must be one of interactive, batch, article, off, got a list",
    "priority = 'Batch'": "priority must be one of interactive, batch, background, got 'Batch'",
    "priority = 1": "priority must be one of interactive, batch, background, got 1",
    # not a policy at all
    "deadline = 3\nx =": "invalid TOML: Invalid value (at end of document)",
    "a = 1\n\nb c": "invalid TOML: Expected '=' after a key in a key/value pair (at line 3, column 3)",
    "a = " + 5000 * "[": "nested too deeply",
    "a." * 400 + "a = 1": "'a' is nested too deeply: more than 32 levels",
    "a = '" + 1024 * 1024 * "x" + "'": "too large for a policy: more than 1048576 bytes",
    '"\\u001b[31m" = 1': 'unknown key "\\u001b[31m" = 1; known: preset, deadline, patience, attempt_timeout, idle_timeout, stall_timeout, fail_fast, cooldown, priority, failures, ignored, retry, retry_budget, breaker, limit, adaptive_rate, rate_limit, process_share, spend, fleet, queue, hedge, fallback, cache, shadow',
    "priority = '" + 300 * "long " + "'": (
        "priority must be one of interactive, batch, background, got '" + 12 * "long " + "'..."
    ),
}


@table_test("text", TABLE)
def test_an_error_in_a_policy_file_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_policy("policy.toml")
    message = str(caught.value)
    assert f"policy.toml: {TABLE[text]}" == message
    assert len(message) < 400
    assert message.isprintable()


def test_only_the_first_error_is_reported_without_its_cause(tmp_path):
    (tmp_path / "policy.toml").write_text("deadline = true\npatience = true")
    with pytest.raises(ConfigurationError, match="deadline must") as caught:
        load_policy(tmp_path / "policy.toml")
    assert caught.value.__suppress_context__


def test_an_unreadable_policy_file_is_reported_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'")
    reasons = {
        "./missing": "cannot be read: No such file or directory",
        "missing.toml": "cannot be read: No such file or directory",
        "folder": "cannot be read: Is a directory",
        "latin.toml": "not UTF-8 text (line 2)",
        "a/\0": "cannot be read: not a file name",
    }
    for name, reason in reasons.items():
        with pytest.raises(ConfigurationError) as caught:
            resolve_policy(name)
        assert f"{name}: {reason}" == str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_reported(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        load_policy(path)


def test_an_impossible_file_name_is_neither_preset_nor_file():
    for name in ("a\0b", "x" * 5000, ""):
        with pytest.raises(ConfigurationError, match="is neither a preset"):
            resolve_policy(name)
