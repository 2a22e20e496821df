from hypothesis import given
from hypothesis import strategies as st

from stormbreak.batch.input.index import IdTable


def table_of(ids, hashed):
    stored = []
    table = IdTable(stored.__getitem__, hashed=hashed)
    twins = []
    for custom_id in ids:
        twin = table.add(custom_id)
        twins.append(twin)
        if twin is None:
            stored.append(custom_id)
    return table, stored, twins


NAMES = st.lists(st.text(alphabet="ab\0é", max_size=3))


@given(
    ids=NAMES,
    others=NAMES,
    hashed=st.sampled_from([hash, lambda _: 7, len, lambda text: -len(text)]),
)
def test_an_id_table_behaves_like_a_dict_when_hashes_collide(ids, others, hashed):
    table, stored, twins = table_of(ids, hashed)
    numbers = {}
    for custom_id, twin in zip(ids, twins, strict=True):
        assert numbers.get(custom_id) == twin
        numbers.setdefault(custom_id, len(numbers))
    assert list(numbers) == stored
    for custom_id in ids:
        assert table.find(custom_id) == numbers[custom_id]
    known = {hashed(custom_id) for custom_id in ids}
    for custom_id in others:
        if custom_id in numbers or hashed(custom_id) not in known:
            assert table.find(custom_id) == numbers.get(custom_id)


def test_an_id_table_grows_within_20_bytes_per_id():
    ids = [f"document-{number}" for number in range(50_000)]
    table, _, twins = table_of(ids, hash)
    assert set(twins) == {None}
    assert [table.find(custom_id) for custom_id in ids] == list(range(50_000))
    assert table.find("document-50000") is None
    assert table.nbytes / len(table) <= 20


def test_an_id_table_reads_ids_only_when_hashes_are_equal():
    asked = []
    table = IdTable(lambda number: asked.append(number) or f"id {number}")
    for number in range(5_000):
        assert table.add(f"id {number}") is None
    assert table.find("id 17") == 17
    assert asked == []
    assert table.add("id 17") == 17
    assert asked == [17]
