"""Models of the code of the founding article, as docs/background/article.md describes it.

Each is as short as its behaviour allows and fails in the described way, beside stormbreak. Times are seconds on the given
clock.
"""

import asyncio

import aiohttp

RECOVERY = 30.0  # seconds that a circuit stays open
THRESHOLD = 5  # failures in a row that open it
TRIES = 6  # attempts of one call, including the first


class LooseBreaker:
    """Any result changes the state, whenever it was sent; asking for permission changes it, too."""

    def __init__(self, clock):
        self.clock = clock
        self.state = "closed"
        self.failures = 0
        self.failed_at = 0.0

    def passes(self):
        if self.state == "open" and self.clock() - self.failed_at >= RECOVERY:
            self.state = "half-open"
        return self.state != "open"

    def succeeded(self):
        self.state, self.failures = "closed", 0

    def failed(self):
        self.failures += 1
        self.failed_at = self.clock()
        if self.failures >= THRESHOLD:
            self.state = "open"


class RatedBreaker:
    """A half-open circuit closes by the share of successful probes; `call` counts probes, `async_call` does not."""

    PROBES, SHARE = 3, 0.5

    def __init__(self, clock):
        self.clock = clock
        self.failures = 0
        self._enter("closed")

    def call(self, work):
        self._gate()
        if self.state == "half-open":
            if self.probes == self.PROBES:
                raise PermissionError("no probe left")
            self.probes += 1
        try:
            result = work()
            self._success()
        except Exception:
            self._failure()
            raise
        return result

    async def async_call(self, coroutine):
        self._gate()
        try:
            result = await coroutine
            self._success()
        except Exception:
            self._failure()
            raise
        return result

    def _gate(self):
        if self.state == "open":
            if self.clock() - self.since < RECOVERY:
                raise PermissionError("open")
            self._enter("half-open")

    def _success(self):
        if self.state != "half-open":
            self.failures = 0
            return
        self.good += 1
        if self.good / self.probes >= self.SHARE:
            self._enter("closed")

    def _failure(self):
        self.failures += 1
        if self.state == "half-open" or self.failures >= THRESHOLD:
            self._enter("open")

    def _enter(self, state):
        self.state, self.since = state, self.clock()
        self.probes = self.good = 0
        if state == "open":
            self.failures = 0


async def at_once(seconds):
    """Return at once instead of sleeping."""


async def retrying(session, url, payload, *, breaker=None, sleep=at_once, backoff=1.0, key="key"):
    """One call: success by the status, six tries for everything else, failures returned as values."""
    breaker = breaker or LooseBreaker(lambda: 0.0)
    headers = {"Authorization": f"Bearer {key}"}
    for _ in range(TRIES):
        wait = backoff
        try:
            async with session.post(url, json=payload, headers=headers) as response:
                if response.status == 200:
                    breaker.succeeded()
                    return await response.json()
                if response.status not in (429, 502, 503, 504):
                    raise aiohttp.ClientResponseError(
                        response.request_info, (), status=response.status, message=await response.text()
                    )  # fmt: skip
                failure = {"status": "error", "code": "MAX_RETRIES_EXCEEDED"}
                if response.status == 429 and "Retry-After" in response.headers:
                    wait = float(response.headers["Retry-After"])
        except aiohttp.ClientError as error:
            failure = {"status": "error", "code": "CLIENT_ERROR", "message": str(error)}
        breaker.failed()
        await sleep(wait)
    return failure


async def nested(session, url, payload, left=TRIES - 1):
    """Retry inside the context of the previous response."""
    async with session.post(url, json=payload) as response:
        if response.status != 200 and left:
            return await nested(session, url, payload, left - 1)
        return response.status


class Batch:
    """All rows as tasks behind a semaphore, one attempt each; a rejected row sleeps by its number in its slot."""

    def __init__(self, send, *, at_once=10):
        self._send = send  # of (index, row): a result, "refused", or TimeoutError
        self._slots = asyncio.Semaphore(at_once)
        self.results = []

    async def run(self, rows):
        ended = await asyncio.gather(
            *(self._one(index, row) for index, row in enumerate(rows)), return_exceptions=True
        )
        failed = sum(isinstance(end, Exception) for end in ended)
        return {
            "total": len(ended),
            "successful": len(ended) - failed,
            "failed": failed,
            "results": [*self.results],
        }

    async def _one(self, index, row):
        async with self._slots:
            try:
                result = await self._send(index, row)
                if result == "refused":
                    await asyncio.sleep(2**index * 0.5)
                    raise ConnectionError("refused")
            except TimeoutError:
                return {"status": "timeout"}
            self.results.append((index, result))
            return result
