"""The rows of `batch_peers.py` by one of the peers, as its own pages say: `peer_rows.py NAME INPUT OUTPUT BASE_URL`.

Each runs in an environment of its own, so this file imports what it needs where it needs it.
"""

# ruff: noqa: PLC0415

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

CONCURRENCY = 200
MODEL = "storm-1"
KEY = "bench"


def _bodies(source: Path) -> list[dict[str, Any]]:
    with source.open("rb") as lines:
        return [json.loads(line)["body"] for line in lines]


def flexllm(source: Path, output: Path, base_url: str) -> None:
    """LLMClient.chat_batch, which writes its answers as they come."""
    from flexllm import LLMClient  # type: ignore[import-not-found]

    client = LLMClient(
        provider="openai",
        base_url=base_url,
        api_key=KEY,
        model=MODEL,
        concurrency_limit=CONCURRENCY,
        retry_times=3,
    )
    messages = [body["messages"] for body in _bodies(source)]
    asyncio.run(client.chat_batch(messages, output_jsonl=str(output), show_progress=False))


def openai(source: Path, output: Path, base_url: str) -> None:
    """AsyncOpenAI behind a semaphore, as most scripts have it."""
    from openai import AsyncOpenAI

    async def answer_all() -> None:
        at_a_time = asyncio.Semaphore(CONCURRENCY)
        with output.open("w") as answers:
            async with AsyncOpenAI(base_url=base_url, api_key=KEY) as client:

                async def ask(body: dict[str, Any]) -> None:
                    async with at_a_time:
                        answer = await client.chat.completions.create(**body)
                    answers.write(answer.model_dump_json() + "\n")

                await asyncio.gather(*(ask(body) for body in _bodies(source)))

    asyncio.run(answer_all())


def ray_http(source: Path, output: Path, base_url: str) -> None:
    """Ray Data's HttpRequestProcessor, with one worker and no limit of its own."""
    from ray.data.llm import (  # type: ignore[import-not-found]
        HttpRequestProcessorConfig,
        build_processor,
    )

    rows = _dataset(source)
    config = HttpRequestProcessorConfig(
        url=f"{base_url}/chat/completions",
        headers={"Authorization": f"Bearer {KEY}"},
        concurrency=1,
        batch_size=64,
        max_retries=3,
        qps=1_000_000,  # no limit; requests of a block are sent one after the other nevertheless
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {"payload": row["body"]},
        postprocess=lambda row: {
            "answer": row["http_response"]["choices"][0]["message"]["content"]
        },
    )
    _write(processor(rows), output)


def ray_ask(source: Path, output: Path, base_url: str) -> None:
    """`stormbreak.ray.Ask` in one actor."""
    import ray  # type: ignore[import-not-found]
    from stormbreak.ray import Ask

    answered = _dataset(source).map_batches(
        Ask,
        fn_constructor_kwargs={"model": MODEL, "base_url": base_url, "body": "body"},
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    _write(answered, output)


def _dataset(source: Path) -> Any:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"body": body} for body in _bodies(source)])


def _write(answered: Any, output: Path) -> None:
    with output.open("w") as answers:
        for row in answered.iter_rows():
            answers.write(json.dumps(row, default=str) + "\n")


if __name__ == "__main__":
    name, *places, url = sys.argv[1:]
    globals()[name](*map(Path, places), url)
