"""Each mistake is one line that names the file, the key and the value."""

import os

import pytest
from table_test import table_test

from stormbreak.config import load_policy, resolve_policy
from stormbreak.errors import ConfigurationError

BACKOFFS = "constant, linear, exponential, proportional_jitter, full_jitter, equal_jitter, decorrelated_jitter"
TRIPS = "dead_target, consecutive, failure_rate, failure_rate_of_last, slow_rate, slow_rate_of_last"
TABLE = {
    # unknown keys
    "deadlin = 3": "deadlin is no key of a policy; did you mean deadline?",
    'prest = "batch"': "prest is no key of a policy; did you mean preset?",
    "[retry.backoff]\nbse = 3": "retry.backoff.bse is no key of a policy; did you mean base?",
    "[retry]\nxyzzy = 3": "retry.xyzzy is no key of a policy; known here: attempts, backoff, min_useful, longest_wait, spread, one_step_longer",
    "[retry.backoff]\nkind = 'linear'\nlinear = 3": "retry.backoff.linear is no key of a policy; known here: kind, base, cap",
    "[retry.backoff]\nkind = 'constant'\nbase = 3": "retry.backoff.base is no key of a policy; known here: kind, seconds",
    "[targets.main]\nmodel = 'm'\n[pools.a]": "a policy alone is taken here, without targets and pools",
    "[limit]\nfixed = 3": "limit.fixed is no key of a policy; known here: kind, ceiling, gain, plus",
    "[limit]\nkind = 'fixed'\nceiling = 3": "limit.ceiling is no key of a policy; known here: kind, in_flight",
    "[retry.preset]\nx = 3": "retry.preset is no key of a policy; known here: attempts, backoff, min_useful, longest_wait, spread, one_step_longer",
    # types
    "[retry]\nattempts = '5'": 'retry.attempts must be a whole number, got "5"',
    "[retry]\nattempts = true": "retry.attempts must be a whole number, got true",
    "[retry]\nattempts = 2.0": "retry.attempts must be a whole number, got 2.0",
    "[retry.backoff]\nbase = '1'": 'retry.backoff.base must be a number, got "1"',
    "[retry.backoff]\nbase = 'none'": 'retry.backoff.base must be a number, got "none"',
    "deadline = true": 'deadline must be a number or "none", got true',
    "deadline = 2026-01-31": 'deadline must be a number or "none", got 2026-01-31',
    "fail_fast = 1": "fail_fast must be true or false, got 1",
    "fail_fast = 'none'": 'fail_fast must be true or false, got "none"',
    "failures = 'throttled'": 'failures must be a list, got "throttled"',
    "[retry]\none_step_longer = [504, '5']": 'retry.one_step_longer[1] must be a whole number, got "5"',
    "retry = 3": "retry must be a table, got 3",
    "retry = 'none'": 'retry must be a table, got "none"',
    "[[retry]]\nattempts = 3": "retry must be a table, got a list",
    "breaker = false": 'breaker must be a table or "none", got false',
    "[retry]\nbackoff = 'linear'": 'retry.backoff must be a table with kind = "linear", got "linear"',
    "[deadline]\nx = 1": 'deadline must be a number or "none", got a table',
    # numbers
    "[retry.backoff]\nbase = -3": "retry.backoff.base must be positive, got -3",
    "[retry.backoff]\nbase = 9\ncap = 1": "retry.backoff.cap must not be below base, got 1",
    "[breaker.trip]\nkind = 'failure_rate'\nshare = 1.5": "breaker.trip.share must lie in (0, 1], got 1.5",
    "[breaker.trip]\nshare = 0.5": "breaker.trip.share is no key of a policy; known here: kind",
    "[retry]\nattempts = 0": "retry.attempts must be at least 1, got 0",
    "deadline = -1": "deadline must be positive, got -1",
    "deadline = nan": 'deadline must be a finite number or "none", got nan',
    "deadline = -inf": 'deadline must be a finite number or "none", got -inf',
    "deadline = 1e999": 'deadline must be a finite number or "none", got inf',
    "deadline = 1" + 400 * "0": f'deadline must be a number or "none", got 1{39 * "0"}...',
    "deadline = " + 5000 * "9": "a number in it is too long",
    "[spend]\nusd = -3": "spend.usd must be positive, got -3",
    "[spend]\nusd = '5 USD'": 'spend.usd must be a number or "none", got "5 USD"',
    "[spend]\nusd = nan": 'spend.usd must be a finite number or "none", got nan',
    "[spend]\nper = 0": "spend.per must be positive, got 0",
    "[spend]\nlongest_answer = 0": "spend.longest_answer must be at least 1, got 0",
    "[spend]\nlongest_answer = 1.5": 'spend.longest_answer must be a whole number or "none", got 1.5',
    "[spend]\nlimit = 5": "spend.limit is no key of a policy; known here: usd, per, longest_answer",
    # words
    "[retry.backoff]\nkind = 'x'": f'retry.backoff.kind must be one of {BACKOFFS}, got "x"',
    "[retry.backoff]\nkind = 3": f"retry.backoff.kind must be one of {BACKOFFS}, got 3",
    "[breaker.trip]\nkind = ''": f'breaker.trip.kind must be one of {TRIPS}, any, got ""',
    "[breaker]\nmode = 'off'": 'breaker.mode must be one of normal, metrics_only, disabled, forced_open, got "off"',
    "[breaker]\ngrowth = 0.5": "breaker.growth must be at least 1, got 0.5",
    "[breaker]\nlongest_half_open = 0": "breaker.longest_half_open must be positive, got 0",
    "[breaker.trip]\nkind = 'slow_rate'\nslower_than = 0": "breaker.trip.slower_than must be positive, got 0",
    "[breaker.trip]\nkind = 'slow_rate_of_last'\nlast = 5": "breaker.trip.last must not be below calls, got 5",
    "[breaker.trip]\nkind = 'any'\nrules = []": "breaker.trip.rules must name at least one rule, got none",
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nshare = 1": f'breaker.trip.rules[0].kind must be one of {TRIPS}, got "nothing"',
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nkind = 'consecutive'\nthreshold = 0": "breaker.trip.rules[0].threshold must be at least 1, got 0",
    "[breaker.trip]\nkind = 'any'\n[[breaker.trip.rules]]\nkind = 'consecutive'\nshare = 1": "breaker.trip.rules[0].share is no key of a policy; known here: kind, threshold",
    "failures = ['reset']\nuncounted = ['reset']": "uncounted must name none of failures, got reset",
    "failures = ['timeout', 'cancelled']": "failures must name only verdicts that can count, got cancelled",
    "failures = ['ok', 'rejected']": "failures must name only verdicts that can count, got ok, rejected",
    "[shadow]\nfailures = ['cancelled']": "shadow.failures must name only verdicts that can count, got cancelled",
    "uncounted = ['ok']": "uncounted must name only verdicts that can count, got ok",
    "[limit]\nkind = 'vegas'": 'limit.kind must be one of fixed, aimd, automatic, got "vegas"',
    "preset = 'bach'": 'preset must be one of interactive, batch, article, off, got "bach"',
    "preset = ['batch']": "preset must be one of interactive, batch, article, off, got a list",
    "priority = 'Batch'": 'priority must be one of interactive, batch, background, got "Batch"',
    "priority = 1": "priority must be a word, got 1",
    # what is no policy at all
    "deadline = 3\nx =": "broken TOML: Invalid value (at end of document)",
    "a = 1\n\nb c": "broken TOML: Expected '=' after a key in a key/value pair (at line 3, column 3)",
    "a = " + 5000 * "[": "nested too deeply",
    "a." * 2000 + "a = 1": "'a' is nested too deeply: more than 32 levels",
    "a = '" + 1024 * 1024 * "x" + "'": "too large for a policy: more than 1048576 bytes",
    '"\\u001b[31m" = 1': '"\\u001b[31m" is no key of a policy; known here: preset, deadline, patience, attempt_timeout, idle_timeout, stall_timeout, fail_fast, cooldown, priority, failures, uncounted, retry, budget, breaker, limit, learn_rate, quota, share, spend, queue, hedge, fallback, cache, shadow',
    "priority = '"
    + 300 * "long "
    + "'": 'priority must be one of interactive, batch, background, got "'
    + ("long " * 8)[:39]
    + "...",
}


@table_test("text", TABLE)
def test_a_mistake_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_policy("policy.toml")
    message = str(caught.value)
    assert f"policy.toml: {TABLE[text]}" == message
    assert len(message) < 400
    assert message.isprintable()


def test_only_the_first_mistake_is_told_and_nothing_of_the_machinery(tmp_path):
    (tmp_path / "policy.toml").write_text("deadline = true\npatience = true")
    with pytest.raises(ConfigurationError, match="deadline must") as caught:
        load_policy(tmp_path / "policy.toml")
    assert caught.value.__suppress_context__


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
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
def test_a_file_without_permission_says_so(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        load_policy(path)


def test_a_name_that_no_file_can_have_is_a_mistake():
    for name in ("a\0b", "x" * 5000, ""):
        with pytest.raises(ConfigurationError, match="is neither a preset"):
            resolve_policy(name)
