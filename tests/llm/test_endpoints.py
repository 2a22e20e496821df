from table_test import table_test

from stormbreak.llm.endpoints import Shape, shape_of


@table_test(
    ("endpoint", "shape"),
    [
        ("/v1/chat/completions", Shape.CHAT),
        ("chat/completions", Shape.CHAT),
        ("/chat/completions/", Shape.CHAT),
        ("https://api.example.com/openai/v1/chat/completions?api-version=1", Shape.CHAT),
        ("/v1/embeddings", Shape.EMBEDDINGS),
        ("embeddings", Shape.EMBEDDINGS),
        ("/v1/models", Shape.JSON),
        ("/v1/not-embeddings", Shape.JSON),
        ("/v1/models?x=/chat/completions", Shape.JSON),
        ("", Shape.JSON),
    ],
)
def test_each_endpoint_has_its_shape(endpoint, shape):
    assert shape_of(endpoint) is shape
