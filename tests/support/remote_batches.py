"""Batches at a provider's batch API, for tests."""

import json
import urllib.request

from batches import run

QUICK = "duration = 3600\n[provider]\nservice = 0\n[batches]\nseconds = 0\n"


def rows_for(url, count):
    """Requests for `count` rows; those for Anthropic have a maximum of tokens."""
    more = {"max_tokens": 100} if url == "/v1/messages" else {}
    return [
        {
            "custom_id": f"id {number} ü",
            "method": "POST",
            "url": url,
            "body": {
                "model": "storm-1",
                "messages": [{"role": "user", "content": f"document {number}"}],
                **more,
            },
        }
        for number in range(count)
    ]


def text_of(line):
    """The text of an answer in OUTPUT, for both APIs."""
    body = line["response"]["body"]
    if "choices" in body:
        return body["choices"][0]["message"]["content"]
    return body["content"][0]["text"]


def listed(base_url, url):
    """The batches at the provider, newest first."""
    place = "messages/batches" if url == "/v1/messages" else "batches"
    request = urllib.request.Request(f"{base_url}/{place}?limit=1000")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


def batch(*args, **env):
    """Run `stormbreak batch ...` in this process."""
    return run("batch", *args, **env)
