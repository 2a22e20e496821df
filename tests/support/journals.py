"""Journals for tests: rows without a file, answers, failures, and the contents of the files."""

import json

from stormbreak.batch.input.row import Row
from stormbreak.batch.store.output_line import Failure, Response
from stormbreak.http.request import RequestFields
from stormbreak.types import Verdict

OK = Response(status_code=200, request_id="r", body=b'{"answer":1}')


class Ids(list):
    """The rows of an input that has no file."""

    def find(self, custom_id):
        return self.index(custom_id) if custom_id in self else None

    def row(self, index):
        fields = RequestFields(model="m")
        return Row(
            index=index,
            custom_id=self[index],
            endpoint="/chat/completions",
            body=b"{}",
            fields=fields,
        )


def failure(verdict=Verdict.TIMEOUT, attempts=1):
    return Failure(code="x", message="y", verdict=verdict, attempts=attempts)


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def ids_in(path):
    return [line["custom_id"] for line in lines(path)]
